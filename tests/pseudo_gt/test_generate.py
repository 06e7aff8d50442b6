"""Detections and tags to a COCO data set."""

from pathlib import Path
from typing import Any

import pytest

from weaksam_d2.artifacts import CategoryMap, read_pseudo_gt, write_pseudo_gt
from weaksam_d2.pseudo_gt import AdaptiveRule, Top1Rule, generate_pseudo_gt

MAP = CategoryMap(["cat", "dog", "cow"], [17, 18, 21])


def record(image_id: str, labels: list[int], **more: Any) -> dict[str, Any]:
    size = {"height": 400, "width": 400}
    return {
        "image_id": image_id,
        "file_name": f"root/a/{image_id}.jpg",
        **size,
        "image_labels": labels,
        **more,
    }


def detection(image_id: str, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image_id, "category_id": category, "bbox": box, "score": score}


RECORDS = [record("x", [0, 2]), record("y", [1]), record("z", [])]
DETECTIONS = [
    detection("x", 17, [0, 0, 100, 100], 0.9),
    detection("x", 17, [10, 10, 40, 40], 0.8),  # a part of the first
    detection("x", 17, [120, 0, 80, 80], 0.5),
    detection("x", 17, [300, 300, 10, 10], 0.1),  # the worst of its class
    detection("x", 18, [0, 0, 50, 50], 0.99),  # not a tag of x
    detection("y", 18, [390, 390, 50, 50], 0.02),  # leaves the image
    detection("y", 18, [400, 0, 50, 50], 0.5),  # outside
    detection("y", 18, [0, 0, float("nan"), 5], 0.5),
]


def test_boxes_scores_and_ids() -> None:
    pgt, _ = generate_pseudo_gt(DETECTIONS, RECORDS, MAP, rule=AdaptiveRule())
    rows = [(a["id"], a["image_id"], a["category_id"], a["bbox"]) for a in pgt.annotations]
    assert rows == [
        (1, "x", 17, [0, 0, 100, 100]),
        (2, "x", 17, [120, 0, 80, 80]),
        (3, "y", 18, [390, 390, 10, 10]),
    ]
    assert [a["score"] for a in pgt.annotations] == [0.9, 0.5, 0.02]
    assert [a["score_norm"] for a in pgt.annotations] == pytest.approx([1.0, 0.5, 1.0])
    assert [a["area"] for a in pgt.annotations] == [10000, 6400, 100]
    assert {(a["source"], a["iscrowd"]) for a in pgt.annotations} == {("wsod", 0)}
    assert pgt.categories == [
        {"id": 17, "name": "cat"},
        {"id": 18, "name": "dog"},
        {"id": 21, "name": "cow"},
    ]


def test_the_report_counts_what_was_left_out() -> None:
    _, report = generate_pseudo_gt(DETECTIONS, RECORDS, MAP, rule=AdaptiveRule())
    assert report.as_dict() == {
        "images": 3,
        "images_without_annotation": 1,
        "annotations": 3,
        "boxes_per_image": 1.0,
        "boxes_per_class": {"cat": 2, "dog": 1, "cow": 0},
        "skipped_classes": 1,
        "untagged_detections": 1,
        "degenerate_detections": 2,
    }


def test_it_survives_the_file_and_images_without_boxes_stay(tmp_path: Path) -> None:
    pgt, _ = generate_pseudo_gt(DETECTIONS, RECORDS, MAP, rule=Top1Rule())
    write_pseudo_gt(tmp_path / "pseudo_gt.json", pgt)
    read = read_pseudo_gt(tmp_path / "pseudo_gt.json")
    assert read.annotations == pgt.annotations
    assert [image["id"] for image in read.images] == ["x", "y", "z"]
    assert read.info["weaksam"]["rule"] == "top1"
    assert read.info["weaksam"]["counts"]["images_without_annotation"] == 1


def test_the_provenance_names_the_detections() -> None:
    first, _ = generate_pseudo_gt(DETECTIONS[:3], RECORDS, MAP, rule=AdaptiveRule())
    second, _ = generate_pseudo_gt(DETECTIONS[:2], RECORDS, MAP, rule=AdaptiveRule())
    given, _ = generate_pseudo_gt(
        DETECTIONS[:2], RECORDS, MAP, rule=AdaptiveRule(), detections_sha256="abc"
    )
    hashes = [p.info["weaksam"]["detections_sha256"] for p in (first, second, given)]
    assert len(set(hashes)) == 3 and hashes[2] == "abc"
    assert first.info["weaksam"]["parameters"]["score_thresh"] == 0.3


@pytest.mark.parametrize("kind", [int, str])
def test_integer_and_string_ids_of_detections_both_match(kind: type) -> None:
    found = [{**detection("7", 17, [0, 0, 9, 9], 0.5), "image_id": kind(7)}]
    pgt, _ = generate_pseudo_gt(found, [record("7", [0])], MAP, rule=AdaptiveRule())
    assert [a["image_id"] for a in pgt.annotations] == ["7"]


def test_nothing_detected_is_legal() -> None:
    pgt, report = generate_pseudo_gt([], RECORDS, MAP, rule=AdaptiveRule())
    assert pgt.annotations == [] and len(pgt.images) == 3
    assert report.skipped_classes == 3


def test_detections_of_another_data_set_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1 images .*\['w'\].*DATASETS\.TRAIN"):
        generate_pseudo_gt(
            [detection("w", 17, [0, 0, 9, 9], 0.5)], RECORDS, MAP, rule=AdaptiveRule()
        )


def test_records_with_boxes_are_refused() -> None:
    with pytest.raises(ValueError, match="image 'x' brings annotations"):
        generate_pseudo_gt([], [record("x", [0], annotations=[])], MAP, rule=AdaptiveRule())


def test_file_names_are_relative_to_the_root(tmp_path: Path) -> None:
    def names(records: list[dict[str, Any]], root: str | None) -> list[str]:
        pgt, _ = generate_pseudo_gt([], records, MAP, rule=AdaptiveRule(), image_root=root)
        return [image["file_name"] for image in pgt.images]

    assert names(RECORDS, None) == ["x.jpg", "y.jpg", "z.jpg"]
    assert names(RECORDS[:1], "root") == ["a/x.jpg"]
    with pytest.raises(ValueError, match="not below 'other'"):
        names(RECORDS, "other")
    twins = [record("x", []), {**record("w", []), "file_name": "root/b/x.jpg"}]
    assert names(twins, "root") == ["a/x.jpg", "b/x.jpg"]
    with pytest.raises(ValueError, match="same file name"):
        names(twins, None)
