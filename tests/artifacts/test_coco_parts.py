"""Folders with a COCO file, made in parts: the bytes do not depend on how it was cut."""

from pathlib import Path
from typing import Any

import pytest

from weaksam_d2.artifacts import (
    ArtifactMismatchError,
    PseudoGroundTruth,
    RunManifest,
    merge_detection_folders,
    merge_pseudo_gt_folders,
    read_pseudo_gt,
    write_detection_folder,
    write_pseudo_gt_folder,
)


def manifest(**changes: Any) -> RunManifest:
    return RunManifest(
        stage="instance_masks",
        status="complete",
        config_sha256="0" * 64,
        versions={},
        dataset={"name": "d"},
        inputs=[],
        command=["tool"],
        config="config.json",
        **changes,
    )


def truth(ids: list[str], rule: str = "top1") -> PseudoGroundTruth:
    images = [{"id": i, "file_name": f"{i}.png", "height": 4, "width": 4} for i in ids]
    rows = [
        {"image_id": i, "category_id": 1, "bbox": [0.0, 0.0, 2.0, 1.0 + n], "score": 0.5}
        for i in ids
        for n in range(int(i))
    ]
    info = {"weaksam": {"rule": rule, "parameters": {}, "detections_sha256": "0" * 64}}
    return PseudoGroundTruth(images, rows, [{"id": 1, "name": "cat"}], info)


def test_parts_join_to_the_bytes_of_the_whole(tmp_path: Path) -> None:
    ids = ["2", "0", "1", "3"]
    write_pseudo_gt_folder(tmp_path / "whole", truth(ids), manifest())
    for cut in (1, 3):
        parts = [tmp_path / f"{cut}-{place}" for place in range(2)]
        pairs = zip(parts, (ids[:cut], ids[cut:]), strict=True)
        for part, own in pairs:
            write_pseudo_gt_folder(part, truth(own), manifest(counts={"images": len(own)}))
        merge_pseudo_gt_folders(parts, tmp_path / f"joined-{cut}")
        joined = tmp_path / f"joined-{cut}"
        assert (joined / "pseudo_gt.json").read_bytes() == (
            tmp_path / "whole" / "pseudo_gt.json"
        ).read_bytes()
        found = RunManifest.read(joined)
        assert found.counts == {"images": 4}
        assert [row["name"] for row in found.outputs] == ["pseudo_gt.json"]
    rows = read_pseudo_gt(tmp_path / "whole" / "pseudo_gt.json").annotations
    assert [row["id"] for row in rows] == [1, 2, 3, 4, 5, 6]


def test_parts_of_another_source_are_refused(tmp_path: Path) -> None:
    write_pseudo_gt_folder(tmp_path / "a", truth(["1"]), manifest())
    write_pseudo_gt_folder(tmp_path / "b", truth(["2"], rule="all"), manifest())
    with pytest.raises(ArtifactMismatchError, match="no part of the artifact"):
        merge_pseudo_gt_folders([tmp_path / "a", tmp_path / "b"], tmp_path / "c")
    assert not (tmp_path / "c").exists()
    with pytest.raises(ValueError, match="no parts"):
        merge_pseudo_gt_folders([], tmp_path / "c")


def test_detections_join_in_order(tmp_path: Path) -> None:
    rows = [
        {"image_id": i, "category_id": 1, "bbox": [0.0, 0.0, 1.0, 1.0], "score": s}
        for i, s in (("b", 0.9), ("b", 0.2), ("a", 0.7))
    ]
    write_detection_folder(tmp_path / "whole", rows, manifest())
    for name, own in (("x", rows[:2]), ("y", []), ("z", rows[2:])):
        write_detection_folder(tmp_path / name, own, manifest())
    merge_detection_folders([tmp_path / name for name in "xyz"], tmp_path / "joined")
    files = [tmp_path / name / "detections.json" for name in ("whole", "joined")]
    assert files[0].read_bytes() == files[1].read_bytes()
    with pytest.raises(FileExistsError):
        write_detection_folder(tmp_path / "x", rows, manifest())
