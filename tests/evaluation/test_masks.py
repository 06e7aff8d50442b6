"""Mask AP against detectron2-free worked examples, an obvious matching and pycocotools itself."""

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as coco_mask

from weaksam_d2.artifacts import CategoryMap
from weaksam_d2.evaluation import MaskEvaluator, TrueMasks, compute_mask_ap, match_masks
from weaksam_d2.evaluation.collect import Detections

SIZE = (20, 20)
NAMES = ("cat", "dog")
IOUS = (0.25, 0.5, 0.7, 0.75)


def block(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    mask = np.zeros(SIZE, bool)
    mask[y1:y2, x1:x2] = True
    return mask


def rle(mask: np.ndarray) -> dict:
    code = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(SIZE), "counts": code["counts"].decode()}


def record(image_id, *objects, **flags):
    """Objects are (mask, class) pairs; all of an image have the same flags."""
    rows = [
        {
            "bbox": [0.0, 0.0, 20.0, 20.0],  # no figure of masks may come from a box
            "bbox_mode": BoxMode.XYXY_ABS,
            "category_id": category,
            "segmentation": rle(mask),
            **flags,
        }
        for mask, category in objects
    ]
    return {"image_id": image_id, "height": 20, "width": 20, "annotations": rows}


def found(*entries) -> Detections:
    """Entries are (mask, score, class)."""
    return Detections(
        np.tile(np.array([0, 0, 20, 20], np.float32), (len(entries), 1)),
        np.array([e[1] for e in entries], np.float32),
        np.array([e[2] for e in entries], np.int64),
        tuple(rle(e[0]) for e in entries),
    )


def truths(records):
    return [TrueMasks.from_record(r, num_classes=2) for r in records]


def scored(records, detections, **options):
    return compute_mask_ap(truths(records), detections, num_classes=2, **options)


@pytest.mark.parametrize("metric", ["coco", "voc"])
def test_a_mask_counts_up_to_its_own_iou(metric: str) -> None:
    records = [record("a", (block(0, 0, 10, 10), 0))]
    figures = scored(records, [found((block(0, 0, 10, 6), 0.9, 0))], metric=metric)  # IoU .6
    values = [figures[f"AP{round(100 * iou)}"] for iou in IOUS]
    assert values == pytest.approx([100.0, 100.0, 0.0, 0.0])
    assert figures["AP"] == pytest.approx(30.0)  # .5, .55 and .6 of ten thresholds
    assert figures["per_class"][0] == pytest.approx(30.0) and np.isnan(figures["per_class"][1])
    assert figures["APs"] == pytest.approx(30.0) and np.isnan(figures["APl"])


def test_the_two_metrics_differ_where_they_should() -> None:
    # One object found, one missed: 51 of 101 points against half the area.
    records = [record("a", (block(0, 0, 5, 5), 0), (block(10, 10, 15, 15), 0))]
    detections = [found((block(0, 0, 5, 5), 0.9, 0))]
    assert scored(records, detections)["AP50"] == pytest.approx(100 * 51 / 101)
    assert scored(records, detections, metric="voc")["AP50"] == pytest.approx(50.0)
    with pytest.raises(ValueError, match="'pascal'"):
        scored(records, detections, metric="pascal")


def test_ignored_objects_count_neither_way() -> None:
    for flags in ({"difficult": 1}, {"iscrowd": 1}):
        records = [
            record("a", (block(0, 0, 10, 10), 0), **flags),
            record("b", (block(0, 0, 10, 10), 0)),
        ]
        detections = [
            found((block(0, 0, 10, 10), 0.9, 0)),
            found((block(0, 0, 10, 10), 0.8, 0)),
        ]
        for metric in ("coco", "voc"):
            assert scored(records, detections, metric=metric)["AP50"] == pytest.approx(100.0)


def test_a_detection_inside_a_crowd_region_is_ignored_and_beside_it_false() -> None:
    crowd = record("a", (block(0, 0, 20, 10), 0), iscrowd=1)
    for mask, expected in ((block(0, 0, 4, 4), 100.0), (block(0, 12, 4, 16), 50.0)):
        detections = [found((mask, 0.9, 0)), found((block(0, 0, 9, 9), 0.5, 0))]
        for metric in ("coco", "voc"):
            records = [crowd, record("b", (block(0, 0, 9, 9), 0))]
            assert scored(records, detections, metric=metric)["AP50"] == pytest.approx(expected)


def slow_voc_ap(records, detections, cls, threshold) -> float:
    """Every detection in order of score, all pairs of masks, pixel by pixel."""
    entries = [
        (float(one.scores[k]), place, coco_mask.decode(one.masks[k]).astype(bool))
        for place, one in enumerate(detections)
        for k in np.flatnonzero(one.classes == cls)
    ]
    objects = [
        [
            coco_mask.decode(r["segmentation"]).astype(bool)
            for r in rec["annotations"]
            if r["category_id"] == cls
        ]
        for rec in records
    ]
    taken = [set() for _ in objects]
    hits = []
    for _, place, mask in sorted(entries, key=lambda e: -e[0]):
        ious = [(mask & o).sum() / (mask | o).sum() for o in objects[place]]
        best = int(np.argmax(ious)) if ious else -1
        ok = best >= 0 and ious[best] >= threshold and best not in taken[place]
        if ok:
            taken[place].add(best)
        hits.append(ok)
    total = sum(map(len, objects))
    area, best_after = 0.0, 0.0
    for k in range(len(hits), 0, -1):
        best_after = max(best_after, sum(hits[:k]) / k)
        area += best_after / total if hits[k - 1] else 0.0
    return 100 * area


def random_case(seed: int):
    rng = np.random.default_rng(seed)

    def mask():
        x, y = rng.integers(0, 12, 2)
        w, h = rng.integers(3, 9, 2)
        return block(x, y, x + w, y + h)

    records, detections = [], []
    for name in "abcd":
        objects = [(mask(), int(rng.integers(2))) for _ in range(rng.integers(1, 4))]
        records.append(record(name, *objects))
        near = [(np.roll(m, int(rng.integers(-2, 3)), axis=1), c) for m, c in objects]
        extra = [(mask(), int(rng.integers(2))) for _ in range(3)]
        detections.append(found(*[(m, float(rng.random()), c) for m, c in near + extra]))
    return records, detections


@pytest.mark.parametrize("seed", range(3))
def test_area_ap_equals_an_obvious_matching(seed: int) -> None:
    records, detections = random_case(seed)
    figures = scored(records, detections, metric="voc")
    for iou in IOUS:
        slow = np.mean([slow_voc_ap(records, detections, cls, iou) for cls in (0, 1)])
        assert figures[f"AP{round(100 * iou)}"] == pytest.approx(slow), iou


def test_coco_figures_equal_the_library_called_by_itself() -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    records, detections = random_case(7)
    rows = [
        {
            **a,
            "image_id": n,
            "id": 10 * n + k + 1,
            "iscrowd": 0,
            "area": float(coco_mask.area(a["segmentation"])),
            "category_id": a["category_id"] + 1,
            "bbox": [0, 0, 1, 1],
        }
        for n, r in enumerate(records)
        for k, a in enumerate(r["annotations"])
    ]
    data = COCO()
    data.dataset = {
        "images": [{"id": n, "height": 20, "width": 20} for n in range(4)],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "annotations": rows,
    }
    data.createIndex()
    results = [
        {"image_id": n, "category_id": int(c) + 1, "score": float(s), "segmentation": m}
        for n, one in enumerate(detections)
        for s, c, m in zip(one.scores, one.classes, one.masks, strict=True)
    ]
    evaluation = COCOeval(data, data.loadRes(results), "segm")
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    ours = scored(records, detections)
    expected = 100 * evaluation.stats[:3]
    assert [ours["AP"], ours["AP50"], ours["AP75"]] == pytest.approx(expected.tolist())


@pytest.mark.parametrize("metric", ["coco", "voc"])
def test_intervals_hold_the_figure_and_repeat(metric: str) -> None:
    records, detections = random_case(3)
    first = scored(records, detections, metric=metric, bootstrap=50)
    again = scored(records, detections, metric=metric, bootstrap=50)
    for iou in IOUS:
        name = f"AP{round(100 * iou)}"
        assert first[f"{name}_low"] <= first[name] <= first[f"{name}_high"]
    assert all(first[k] == again[k] for k in first if k.endswith(("_low", "_high")))
    assert first["AP75_low"] < first["AP75_high"]


def test_no_detection_is_zero_and_no_object_is_not_measured() -> None:
    nothing = [found()]
    figures = scored([record("a", (block(0, 0, 5, 5), 1))], nothing, bootstrap=5)
    assert figures["AP50"] == 0.0 and figures["AP75_high"] == 0.0
    assert np.isnan(figures["per_class"][0]) and figures["per_class"][1] == 0.0
    assert np.isnan(scored([record("a")], nothing)["AP50"])
    counts = match_masks(truths([record("a")]), nothing, num_classes=2, iou_thresh=0.5)
    assert [one.positives.tolist() for one in counts] == [[0], [0]]


def test_polygons_and_counts_are_read_as_masks() -> None:
    polygon = record("a", (block(2, 3, 12, 9), 0))
    polygon["annotations"][0]["segmentation"] = [[2, 3, 12, 3, 12, 9, 2, 9]]
    plain = record("b", (block(2, 3, 12, 9), 0))
    plain["annotations"][0]["segmentation"] = {"size": list(SIZE), "counts": [43, 6, 351]}
    for one, area in ((polygon, 60), (plain, 6)):
        masks = TrueMasks.from_record(one, num_classes=2).masks
        assert int(coco_mask.area(masks[0])) == area
    plain["annotations"][0].pop("segmentation")
    with pytest.raises(ValueError, match="image 'b' has no segmentation"):
        TrueMasks.from_record(plain, num_classes=2)


def outputs(detections: Detections, *, masks: bool = True):
    instances = Instances(SIZE)
    instances.pred_boxes = Boxes(torch.from_numpy(detections.boxes))
    instances.scores = torch.from_numpy(detections.scores)
    instances.pred_classes = torch.from_numpy(detections.classes)
    if masks:
        decoded = [coco_mask.decode(m).astype(bool) for m in detections.masks]
        instances.pred_masks = torch.from_numpy(np.array(decoded).reshape(-1, *SIZE))
    return {"instances": instances}


def test_the_evaluator_gives_the_same_from_a_model_and_from_a_file() -> None:
    records, detections = random_case(5)
    evaluator = MaskEvaluator(records, NAMES)
    evaluator.reset()
    for one, det in zip(records, detections, strict=True):
        evaluator.process([{"image_id": one["image_id"]}], [outputs(det)])
    # An image that nobody has outlined counts nowhere.
    evaluator.process([{"image_id": "not outlined"}], [outputs(detections[0])])
    figures = evaluator.evaluate()["segm"]
    assert figures["images"] == 4.0 and {"AP-cat", "AP-dog", "AP25"} <= set(figures)
    rows = [
        {
            "image_id": r["image_id"],
            "category_id": int(c) + 7,
            "score": float(s),
            "segmentation": m,
            "bbox": [0, 0, 1, 1],
        }
        for r, det in zip(records, detections, strict=True)
        for s, c, m in zip(det.scores, det.classes, det.masks, strict=True)
    ]
    categories = CategoryMap(NAMES, [7, 8])
    other = MaskEvaluator(records, NAMES).evaluate_rows(rows, categories)["segm"]
    assert other == pytest.approx(figures, nan_ok=True)


def test_detections_without_masks_are_refused() -> None:
    records, detections = random_case(5)
    evaluator = MaskEvaluator(records, NAMES)
    evaluator.reset()
    with pytest.raises(ValueError, match=r"MODEL\.MASK_ON"):
        evaluator.process([{"image_id": "a"}], [outputs(detections[0], masks=False)])


def test_the_other_library_gives_the_same_figures() -> None:
    pytest.importorskip("faster_coco_eval")
    records, detections = random_case(9)
    ours = scored(records, detections, bootstrap=20)
    theirs = scored(records, detections, library="faster", bootstrap=20)
    for name in ("AP", "AP25", "AP50", "AP70", "AP75", "AP50_low"):
        assert theirs[name] == pytest.approx(ours[name])
