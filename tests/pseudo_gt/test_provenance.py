"""Which detector made a file of detections."""

from pathlib import Path

import pytest

from weaksam_d2.artifacts import RunManifest, list_outputs, sha256_file, write_detections
from weaksam_d2.pseudo_gt import describe_detections


def test_the_manifest_above_is_named_as_long_as_it_lists_the_file(tmp_path: Path) -> None:
    path = tmp_path / "wsod" / "inference" / "train" / "detections.json"
    write_detections(path, [])
    (path.parent / "manifest.json").write_text('{"name": "of a web page"}')
    bare = {"sha256": sha256_file(path), "bytes": path.stat().st_size}
    assert describe_detections(path) == bare
    outputs = [r for r in list_outputs(tmp_path / "wsod") if r["name"].endswith("detections.json")]
    manifest = RunManifest("wsod", config_sha256="c", versions={"torch": "2"}, outputs=outputs)
    manifest.write(tmp_path / "wsod" / "manifest.json")
    assert describe_detections(path) == {
        **bare,
        "detector": {
            "stage": "wsod",
            "identity": manifest.identity(),
            "config_sha256": "c",
            "versions": {"torch": "2"},
        },
    }
    path.write_text("[ ]")  # no longer what the stage wrote
    assert "detector" not in describe_detections(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.json"):
        describe_detections(tmp_path / "gone.json")
