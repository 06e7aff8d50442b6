"""Detections and tags to a COCO data set."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import (
    CategoryMap,
    DetectionsFile,
    PseudoGroundTruth,
    read_pseudo_gt,
    sha256_json,
    write_detections,
    write_pseudo_gt,
)
from weaksam_d2.pseudo_gt import (
    AdaptiveRule,
    AllRule,
    FusionSettings,
    ThresholdRule,
    Top1Rule,
    W2NRule,
    generate,
    generate_pseudo_gt,
    stream_pseudo_gt,
)

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
    found = report.as_dict()
    per_class = found.pop("per_class")
    assert found == {
        "images": 3,
        "images_without_annotation": 1,
        "annotations": 3,
        "boxes_per_image": 1.0,
        "boxes_per_class": {"cat": 2, "dog": 1, "cow": 0},
        "skipped_classes": 1,
        "pairs_without_boxes": 1,
        "untagged_detections": 1,
        "degenerate_detections": 2,
    }
    assert per_class["cow"] == {
        "boxes": 0,
        "images_with_tag": 1,
        "images_with_boxes": 0,
        "pairs_without_boxes": 1,
        "score_quantiles": [],
    }
    assert per_class["cat"]["score_quantiles"] == pytest.approx([0.5, 0.6, 0.7, 0.8, 0.9])


def test_a_rule_may_leave_a_supported_class_without_boxes() -> None:
    _, report = generate_pseudo_gt(DETECTIONS, RECORDS, MAP, rule=ThresholdRule(threshold=0.6))
    assert (report.skipped_classes, report.pairs_without_boxes) == (1, 2)
    assert report.per_class["dog"]["pairs_without_boxes"] == 1
    assert report.images_without_annotation == 2


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


def stream(
    folder: Path, files: list[list[dict[str, Any]]], records: list[dict[str, Any]], **options: Any
) -> PseudoGroundTruth:
    paths = [folder / f"{number}.json" for number in range(len(files))]
    for path, rows in zip(paths, files, strict=True):
        write_detections(path, rows)
    provenance = [{"sha256": str(number), "bytes": 1} for number in range(len(files))]
    with ExitStack() as opened:
        report = stream_pseudo_gt(
            folder / "pseudo_gt.json",
            [opened.enter_context(DetectionsFile(path)) for path in paths],
            records,
            MAP,
            provenance=provenance,
            **options,
        )
    pgt = read_pseudo_gt(folder / "pseudo_gt.json")
    assert pgt.info["weaksam"]["statistics"] == json.loads(json.dumps(report.as_dict()))
    return pgt


def random_detections(images: int, each: int, seed: int) -> list[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    rows = []
    for i in rng.permutation(images):
        for _ in range(int(rng.integers(0, each))):
            x, y, w, h = rng.integers(0, 300, 4).tolist()
            category = [17, 18, 21][rng.integers(3)]
            rows.append(detection(f"i{i}", category, [x, y, w, h], float(rng.random())))
    return rows


@pytest.mark.parametrize("batch", [1, 25, 10_000])
def test_a_stream_equals_the_whole_whatever_the_batch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(generate, "_BATCH_ROWS", batch)
    records = [record(f"i{i}", [[0, 2], [1], [], [0, 1, 2]][i % 4]) for i in range(40)]
    rows = random_detections(40, 20, seed=5)
    found = stream(tmp_path, [rows], records, rule=AdaptiveRule())
    one_by_one = []
    for one in records:
        mine = [row for row in rows if row["image_id"] == one["image_id"]]
        pgt, _ = generate_pseudo_gt(mine, [one], MAP, rule=AdaptiveRule())
        one_by_one += pgt.annotations
    assert len(one_by_one) > 40
    assert [{**row, "id": 0} for row in found.annotations] == [
        {**row, "id": 0} for row in one_by_one
    ]
    assert [row["id"] for row in found.annotations] == list(range(1, len(one_by_one) + 1))


TWO = [
    [detection("x", 17, [0, 0, 10, 10], 0.8), detection("x", 17, [50, 50, 10, 10], 0.6)],
    [detection("x", 17, [0, 0, 12, 10], 0.4)],
]


def test_two_detectors_are_fused_before_the_rule(tmp_path: Path) -> None:
    settings = FusionSettings("wbf", iou=0.5)
    found = stream(tmp_path, TWO, RECORDS, rule=AllRule(), fusion=settings)
    boxes = [(row["bbox"], row["score"]) for row in found.annotations]
    assert boxes == [
        (pytest.approx([0, 0, 32 / 3, 10]), pytest.approx(0.6)),
        ([50, 50, 10, 10], pytest.approx(0.3)),  # one of two detectors found it
    ]
    info = found.info["weaksam"]
    assert info["fusion"] == {"method": "wbf", "iou": 0.5, "weights": []}
    assert [entry["sha256"] for entry in info["detections"]] == ["0", "1"]
    assert info["detections_sha256"] == sha256_json(["0", "1"])


def test_weights_come_first_and_nms_keeps_the_better_box(tmp_path: Path) -> None:
    settings = FusionSettings("nms", iou=0.5, weights=(1.0, 2.5))
    found = stream(tmp_path, TWO, RECORDS, rule=AllRule(), fusion=settings)
    assert [(row["bbox"][2], row["score"]) for row in found.annotations] == [(12, 1.0), (10, 0.6)]
    alone = stream(tmp_path, TWO[:1], RECORDS, rule=AllRule(), fusion=FusionSettings("nms"))
    assert [row["bbox"][2] for row in alone.annotations] == [10, 10]


def test_without_fusion_the_rule_sees_the_union(tmp_path: Path) -> None:
    found = stream(tmp_path, TWO, RECORDS, rule=AllRule())
    assert [row["score"] for row in found.annotations] == [0.8, 0.6, 0.4]
    assert found.info["weaksam"]["fusion"]["method"] == ""
    found = stream(tmp_path, TWO, RECORDS, rule=W2NRule(threshold=0.1))
    assert [row["score"] for row in found.annotations] == [0.8, 0.6]
    assert "fusion" not in stream(tmp_path, TWO[:1], RECORDS, rule=AllRule()).info["weaksam"]


def test_nothing_detected_by_anyone_is_legal_in_a_stream(tmp_path: Path) -> None:
    found = stream(tmp_path, [[], []], RECORDS, rule=AdaptiveRule(), fusion=FusionSettings("wbf"))
    assert found.annotations == [] and len(found.images) == 3
    assert stream(tmp_path, [[]], [], rule=AdaptiveRule()).images == []


def test_a_stream_refuses_other_images_and_other_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"1 images .*\['w'\]"):
        stream(tmp_path, [[detection("w", 17, [0, 0, 9, 9], 0.5)]], RECORDS, rule=AllRule())
    with pytest.raises(ValueError, match="3 weights for 2 files"):
        settings = FusionSettings(weights=(1.0, 1.0, 1.0))
        stream(tmp_path, TWO, RECORDS, rule=AllRule(), fusion=settings)
    assert not (tmp_path / "pseudo_gt.json").exists()
