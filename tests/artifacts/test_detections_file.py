"""A COCO results list read by image."""

import json
from pathlib import Path
from typing import Any

import pytest

from weaksam_d2.artifacts import (
    ArtifactError,
    DetectionsFile,
    detections_file,
    read_detections,
    write_detections,
)


def detection(image_id: Any, score: float = 0.5, **change: Any) -> dict[str, Any]:
    row = {"image_id": image_id, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": score}
    return {**row, **change}


def by_image(path: Path) -> dict[str, list[dict[str, Any]]]:
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in read_detections(path):
        groups.setdefault(str(row["image_id"]), []).append(row)
    return groups


ROWS = [
    detection("b", 0.9),
    detection("b", 0.5, segmentation={"size": [2, 2], "counts": "04"}),
    detection(7, 0.25),
    detection("Käfig 猫", 0.125, note=["]", "},{", '"\\']),
    detection("b", 0.1),
]


@pytest.mark.parametrize("block", [1, 7, 64, 1 << 20])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, ensure_ascii=False),
        json.dumps(ROWS, indent=2),
        "\ufeff \n" + json.dumps(ROWS, ensure_ascii=False).replace("}, {", "}\r\n,\t{") + " \n",
    ],
    ids=["escapes", "utf-8", "indent", "bom"],
)
def test_rows_are_those_of_the_whole_list_whatever_the_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: int, text: str
) -> None:
    monkeypatch.setattr(detections_file, "_BLOCK", block)
    path = tmp_path / "d.json"
    path.write_text(text, encoding="utf-8")
    with DetectionsFile(path) as found:
        assert list(found) == ["b", "7", "Käfig 猫"]
        assert dict(found) == by_image(path)
        assert "b" in found and "c" not in found and found.get("c", ()) == ()
        with pytest.raises(KeyError):
            found["c"]


def test_a_file_of_ours_and_an_empty_one(tmp_path: Path) -> None:
    write_detections(tmp_path / "d.json", ROWS)
    with DetectionsFile(tmp_path / "d.json") as found:
        assert [len(rows) for rows in found.values()] == [3, 1, 1]
    write_detections(tmp_path / "e.json", [])
    with DetectionsFile(tmp_path / "e.json") as found:
        assert len(found) == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{}", "must hold a list"),
        ("", "must hold a list"),
        ("[3]", "row 0 must be an object"),
        ("[" + json.dumps(detection("a")) + ", 3]", "row 1 must be an object"),
        ("[" + json.dumps(detection(None)) + "]", "row 0: image_id must be int or str"),
        (json.dumps(ROWS)[:-1], "not valid JSON .* cut off"),
        (json.dumps(ROWS)[:-30], "not valid JSON .* cut off"),
        (json.dumps(ROWS).replace("}, {", "} {", 1), "expected ',' or '\\]', got '{'"),
        (json.dumps(ROWS) + "x", "there is more behind the list, 'x'"),
        (json.dumps(ROWS)[:-1] + ",]", "not valid JSON"),
    ],
    ids=range(10),
)
def test_a_damaged_file_is_named_when_it_is_opened(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "d.json").write_text(text)
    with pytest.raises(ArtifactError, match=f"d.json.*{words}"):
        DetectionsFile(tmp_path / "d.json")


def test_bytes_that_are_no_utf8_are_named(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_bytes(json.dumps([detection("a?")]).encode().replace(b"?", b"\xff"))
    with pytest.raises(ArtifactError, match="d.json is not valid JSON"):
        DetectionsFile(tmp_path / "d.json")


@pytest.mark.parametrize("change", [{"score": "0.5"}, {"bbox": [1, 2, 3]}, {"category_id": None}])
def test_a_wrong_row_is_named_when_its_image_is_read(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    rows = [detection("a"), detection("b"), detection("b", **change), detection("a")]
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with DetectionsFile(tmp_path / "d.json") as found:
        assert len(found["a"]) == 2
        with pytest.raises(ArtifactError, match=f"d.json, row 2: {next(iter(change))}"):
            found["b"]
