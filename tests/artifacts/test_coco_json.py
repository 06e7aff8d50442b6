"""Detections and pseudo ground truth as COCO JSON."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from weaksam_d2.artifacts import (
    ArtifactError,
    PseudoGroundTruth,
    read_detections,
    read_pseudo_gt,
    write_detections,
    write_pseudo_gt,
)
from weaksam_d2.artifacts.coco_json import rle_runs


def detection(image_id: Any = "a", score: float = 0.5, **change: Any) -> dict[str, Any]:
    row = {"image_id": image_id, "category_id": 3, "bbox": [1.0, 2.0, 3.0, 4.0], "score": score}
    return {**row, **change}


def test_detections_are_sorted_by_image_then_falling_score_and_stable(tmp_path: Path) -> None:
    rows = [
        detection("b", 0.1, category_id=1),
        detection("a", 0.2, category_id=2),
        detection("b", 0.9, category_id=3),
        detection("b", 0.1, category_id=4),
    ]
    write_detections(tmp_path / "d.json", rows)
    assert [row["category_id"] for row in read_detections(tmp_path / "d.json")] == [3, 1, 4, 2]
    write_detections(tmp_path / "d.json", rows, image_order=["a", "none", "b"])
    assert [row["category_id"] for row in read_detections(tmp_path / "d.json")] == [2, 3, 1, 4]


def test_detections_keep_full_precision_and_id_types(tmp_path: Path) -> None:
    score = np.float32(1) / np.float32(3)
    rows = [detection(np.int64(7), score, category_id=np.int64(2), bbox=np.float32([0.1, 0, 1, 1]))]
    write_detections(tmp_path / "d.json", rows)
    row = json.loads((tmp_path / "d.json").read_text())[0]
    assert row["image_id"] == 7 and row["score"] == float(score)
    assert row["bbox"][0] == float(np.float32(0.1))


def test_detections_of_nothing_and_with_masks(tmp_path: Path) -> None:
    write_detections(tmp_path / "d.json", [])
    assert read_detections(tmp_path / "d.json") == []
    rle = coco_mask.encode(np.asfortranarray(np.eye(5, dtype=np.uint8)))
    write_detections(tmp_path / "d.json", [detection(segmentation=rle)])
    found = read_detections(tmp_path / "d.json")[0]["segmentation"]
    assert (coco_mask.decode(found) == np.eye(5)).all()


BAD_ROWS = [
    ({"bbox": [1, 2, 3]}, "bbox must be 4 finite numbers"),
    ({"bbox": [1, 2, 3, float("nan")]}, "bbox must be 4 finite numbers"),
    ({"bbox": [1, 2, 3, float("inf")]}, "bbox must be 4 finite numbers"),
    ({"bbox": "1234"}, "bbox must be 4 finite numbers"),
    ({"bbox": None}, "bbox must be 4 finite numbers"),
    ({"bbox": [1, 2, -3, 4]}, "bbox must have a non-negative width"),
    ({"score": float("nan")}, "score must be a finite number"),
    ({"score": "0.5"}, "score must be a finite number"),
    ({"score": True}, "score must be a finite number"),
    ({"image_id": None}, "image_id must be int or str"),
    ({"category_id": "3"}, "category_id must be int"),
    ({"segmentation": [[1, 2, 3]]}, "segmentation must be a compressed RLE"),
]


@pytest.mark.parametrize(("change", "words"), BAD_ROWS, ids=str)
def test_wrong_detection_names_file_and_row(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    rows = [detection(), {**detection(), **change}]
    with pytest.raises(ValueError, match=f"d.json, row 1: {words}"):
        write_detections(tmp_path / "d.json", rows)
    assert not (tmp_path / "d.json").exists()
    (tmp_path / "d.json").write_text(json.dumps(rows))
    with pytest.raises(ArtifactError, match=f"d.json, row 1: {words}"):
        read_detections(tmp_path / "d.json")


def test_detections_that_are_no_list_are_named(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text("{}")
    with pytest.raises(ArtifactError, match="d.json must hold a list"):
        read_detections(tmp_path / "d.json")
    (tmp_path / "d.json").write_text("[3]")
    with pytest.raises(ArtifactError, match="row 0 must be an object"):
        read_detections(tmp_path / "d.json")


def test_detection_of_an_image_outside_the_order_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 0: image_id 'a' is not in image_order"):
        write_detections(tmp_path / "d.json", [detection("a")], image_order=["b"])


def pseudo_gt(masks: bool = False) -> PseudoGroundTruth:
    annotations: list[dict[str, Any]] = [
        {"image_id": "a", "category_id": 5, "bbox": [1, 2, 3, 4], "score": 0.5, "source": "wsod"},
        {"image_id": "a", "category_id": 7, "bbox": [0, 0, 2, 2], "score_norm": 1.0},
    ]
    if masks:
        mask = np.zeros((8, 9, 2), np.uint8, order="F")
        mask[1:3, 2:5, 0] = 1
        for row, rle in zip(annotations, coco_mask.encode(mask), strict=True):
            row["segmentation"] = rle
    return PseudoGroundTruth(
        images=[{"id": i, "file_name": f"{i}.jpg", "height": 8, "width": 9} for i in ("a", "b")],
        annotations=annotations,
        categories=[{"id": 5, "name": "duck"}, {"id": 7, "name": "swan"}],
        info={"weaksam": {"rule": "Adaptive", "parameters": {"t": 0.9}, "detections_sha256": "0"}},
    )


def test_pseudo_gt_round_trip_sets_ids_area_counts_and_format(tmp_path: Path) -> None:
    given = pseudo_gt()
    before = copy.deepcopy(given)
    write_pseudo_gt(tmp_path / "p.json", given)
    assert given == before
    found = read_pseudo_gt(tmp_path / "p.json")
    assert [row["id"] for row in found.annotations] == [1, 2]
    assert [row["area"] for row in found.annotations] == [12, 4]
    assert all(row["iscrowd"] == 0 for row in found.annotations)
    assert found.annotations[0]["score"] == 0.5 and found.annotations[0]["source"] == "wsod"
    assert found.images == given.images
    assert found.info["weaksam"] == {
        **given.info["weaksam"],
        "format": "weaksam_d2.pseudo_gt/1",
        "counts": {"images": 2, "annotations": 2, "images_without_annotation": 1},
    }
    write_pseudo_gt(tmp_path / "again.json", found)
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "p.json").read_bytes()


def test_pseudo_gt_area_is_that_of_the_mask(tmp_path: Path) -> None:
    write_pseudo_gt(tmp_path / "p.json", pseudo_gt(masks=True))
    assert [row["area"] for row in read_pseudo_gt(tmp_path / "p.json").annotations] == [6, 0]


@pytest.mark.parametrize("masks", [False, True])
def test_pycocotools_reads_pseudo_gt(tmp_path: Path, masks: bool) -> None:
    write_pseudo_gt(tmp_path / "p.json", pseudo_gt(masks))
    coco = COCO(str(tmp_path / "p.json"))
    assert len(coco.anns) == 2 and coco.getImgIds() == ["a", "b"]
    if masks:
        assert coco.annToMask(coco.anns[1]).sum() == 6


def test_empty_pseudo_gt_is_legal(tmp_path: Path) -> None:
    given = pseudo_gt()
    given.annotations = []
    write_pseudo_gt(tmp_path / "p.json", given)
    found = read_pseudo_gt(tmp_path / "p.json")
    assert found.annotations == [] and found.info["weaksam"]["counts"]["images"] == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image_id": "c"}, "annotation 1: image_id 'c' is not among"),
        ({"category_id": 6}, "annotation 1: category_id 6 is not"),
        ({"bbox": [1, 2, 0, 3]}, "annotation 1: bbox .* above 0"),
        ({"bbox": [1, 2, 3]}, "annotation 1: bbox must be 4"),
        ({"segmentation": {"size": [8, 9], "counts": "00"}}, "1 of 2 annotations"),
    ],
)
def test_wrong_annotation_names_file_and_place(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    given = pseudo_gt()
    given.annotations[1].update(change)
    with pytest.raises(ValueError, match=f"p.json: {words}"):
        write_pseudo_gt(tmp_path / "p.json", given)


@pytest.mark.parametrize("counts", ["", "0", "o"])
def test_mask_that_does_not_cover_the_image_is_refused(tmp_path: Path, counts: str) -> None:
    given = pseudo_gt(masks=True)
    given.annotations[1]["segmentation"] = {"size": [8, 9], "counts": counts}
    with pytest.raises(ValueError, match="annotation 1: the segmentation|RLE counts end"):
        write_pseudo_gt(tmp_path / "p.json", given)


def test_incomplete_info_and_wrong_format_are_refused(tmp_path: Path) -> None:
    given = pseudo_gt()
    write_pseudo_gt(tmp_path / "p.json", given)
    del given.info["weaksam"]["rule"]
    with pytest.raises(ValueError, match="must hold rule"):
        write_pseudo_gt(tmp_path / "q.json", given)
    content = json.loads((tmp_path / "p.json").read_text())
    content["info"]["weaksam"]["format"] = "weaksam_d2.pseudo_gt/2"
    (tmp_path / "p.json").write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="p.json: its format is 'weaksam_d2.pseudo_gt/2'"):
        read_pseudo_gt(tmp_path / "p.json")
    (tmp_path / "p.json").write_text('{"images": []}')
    with pytest.raises(ArtifactError, match="p.json must be a COCO data set"):
        read_pseudo_gt(tmp_path / "p.json")


@pytest.mark.parametrize("seed", range(20))
def test_rle_runs_agree_with_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = tuple(rng.integers(1, 300, 2))
    mask = rng.random(shape) < rng.choice([0.0, 0.001, 0.3, 1.0])
    mask[: shape[0] // 2] = rng.random() < 0.5
    rle = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    runs = rle_runs(rle["counts"])
    assert sum(runs) == mask.size and sum(runs[1::2]) == mask.sum()
    values = np.repeat(np.arange(len(runs)) % 2, runs)
    np.testing.assert_array_equal(values, mask.ravel(order="F"))
