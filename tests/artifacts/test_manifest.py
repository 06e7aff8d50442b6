"""RunManifest: identity, hashes of inputs and outputs, no path of the machine."""

import json
from pathlib import Path
from typing import Any

import pytest

from weaksam_d2.artifacts import (
    ArtifactError,
    RunManifest,
    describe_dataset,
    describe_input,
    list_outputs,
    sha256_file,
    sha256_json,
)
from weaksam_d2.artifacts.manifest import strip_paths


def manifest(**change: Any) -> RunManifest:
    fields: dict[str, Any] = {
        "stage": "proposals",
        "config_sha256": "c0",
        "inputs": [{"name": "prompts", "sha256": "aa", "bytes": 1}],
        "dataset": describe_dataset("birds", ["a", "b"], difficult_in_labels=False),
    }
    return RunManifest(**{**fields, **change})


def test_round_trip_through_file_and_folder(tmp_path: Path) -> None:
    given = manifest(counts={"images": 2}, seconds={"total": 0.5}, parts=3, versions={"a": "1"})
    given.write(tmp_path)
    assert RunManifest.read(tmp_path) == given
    given.write(tmp_path / "other.json")
    assert RunManifest.read(tmp_path / "other.json") == given
    content = json.loads((tmp_path / "manifest.json").read_text())
    assert content["format"] == "weaksam_d2.manifest/1" and content["status"] == "complete"


@pytest.mark.parametrize(
    "change",
    [
        {"stage": "cams"},
        {"config_sha256": "c1"},
        {"inputs": [{"name": "prompts", "sha256": "ab", "bytes": 1}]},
        {"dataset": describe_dataset("birds", ["b", "a"], difficult_in_labels=False)},
        {"dataset": describe_dataset("birds", ["a", "b"], difficult_in_labels=True)},
    ],
    ids=str,
)
def test_identity_depends_on_what_makes_the_artifact(change: dict[str, Any]) -> None:
    assert manifest(**change).identity() != manifest().identity()


def test_identity_ignores_times_counts_and_command(tmp_path: Path) -> None:
    other = manifest(
        counts={"images": 9}, seconds={"total": 9.0}, created="then", command=["x"], parts=7
    )
    assert other.identity() == manifest().identity()


def test_identity_survives_writing_even_with_paths_and_tuples(tmp_path: Path) -> None:
    given = manifest(dataset={"name": "x", "root": "/data/somewhere", "classes": ("a", "b")})
    given.write(tmp_path)
    assert RunManifest.read(tmp_path).identity() == given.identity()
    assert "/data" not in (tmp_path / "manifest.json").read_text()


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("/data/a b/voc", "voc"),
        ("--input=/data/me/prompts", "--input=prompts"),
        ("configs/a.yaml", "configs/a.yaml"),
        ("../configs/a.yaml", "../configs/a.yaml"),
        ("https://example.org/a/b.pth", "https://example.org/a/b.pth"),
        ("package:efficientnet-lite0", "package:efficientnet-lite0"),
        ("(('x', '/data/my photos', \"/data/tags.csv\"),)", "(('x', 'my photos', \"tags.csv\"),)"),
        ("[/data/a,/data/b/c]", "[a,c]"),
        ("file:///data/me/w.pth", "w.pth"),
        ("C:\\users\\me\\w.pth", "w.pth"),
        ("0.5", "0.5"),
        ("a/b", "a/b"),
        ("", ""),
    ],
)
def test_absolute_paths_are_cut_to_their_last_part(argument: str, expected: str) -> None:
    assert strip_paths(argument) == expected


def test_written_command_holds_no_absolute_path(tmp_path: Path) -> None:
    manifest(command=["/data/me/tools/run.py", "--output", str(tmp_path / "out")]).write(tmp_path)
    assert RunManifest.read(tmp_path).command == ["run.py", "--output", "out"]


def test_outputs_list_every_file_but_the_manifest(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b").write_text("bb")
    (tmp_path / "a").write_text("a")
    manifest().write(tmp_path)
    rows = list_outputs(tmp_path)
    assert [(row["name"], row["bytes"]) for row in rows] == [("a", 1), ("sub/b", 2)]
    assert rows[0]["sha256"] == sha256_file(tmp_path / "a")


def test_input_file_counts_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("abc")
    row = describe_input("weights", tmp_path / "f")
    assert row == {"name": "weights", "sha256": sha256_file(tmp_path / "f"), "bytes": 3}


def test_input_folder_counts_by_the_outputs_of_its_manifest(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("abc")
    bare = describe_input("x", tmp_path)
    manifest(outputs=list_outputs(tmp_path), created="now").write(tmp_path)
    assert describe_input("x", tmp_path) == bare
    manifest(outputs=list_outputs(tmp_path), created="later").write(tmp_path)
    assert describe_input("x", tmp_path) == bare
    assert bare["sha256"] == sha256_json(list_outputs(tmp_path)) and bare["bytes"] == 3


def test_missing_input_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="input 'cams' does not exist: .*/nothing"):
        describe_input("cams", tmp_path / "nothing")


def test_wrong_manifest_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"format": "weaksam_d2.manifest/2"}')
    with pytest.raises(ArtifactError, match="manifest.json has format 'weaksam_d2.manifest/2'"):
        RunManifest.read(tmp_path)
    (tmp_path / "manifest.json").write_text('{"format": "weaksam_d2.manifest/1", "stage": "x"}')
    with pytest.raises(ArtifactError, match="manifest.json lacks .*'inputs'"):
        RunManifest.read(tmp_path)
