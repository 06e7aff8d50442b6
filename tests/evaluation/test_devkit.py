"""AP of adversarial cases against the PASCAL VOC development kit's algorithm, written out."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.evaluation import Detections, GroundTruth, compute_voc_ap, match_classes

METRICS = ("11point", "area")
# Few boxes, so that chance gives equal overlaps, repeated boxes and an IoU of exactly one half.
BOXES = [
    *([0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 6], [0, 2, 10, 12], [0, 5, 10, 15]),
    *([20, 0, 30, 10], [20, 0, 30, 8], [60, 60, 70, 70]),
]
NUM_CLASSES = 3


def devkit_ap(truths, detections, cls, metric, *, accepts_half=False):
    """The kit's loop: inclusive pixels, one detection after another, first best object.

    By its description an IoU must exceed one half; its MATLAB code ``accepts_half`` itself.
    ``truths`` and ``detections`` are lists, an entry for each image, of rows (box, class,
    difficult) and (box, score, class); boxes are the kit's (the last pixel belongs to them).
    """
    objects = [
        [{"box": box, "hard": hard, "found": False} for box, c, hard in rows if c == cls]
        for rows in truths
    ]
    total = sum(not one["hard"] for rows in objects for one in rows)
    found = [
        (score, image, box)
        for image, rows in enumerate(detections)
        for box, score, c in rows
        if c == cls
    ]
    hits, misses = [], []
    for _, image, box in sorted(found, key=lambda one: -one[0]):
        best, best_object = -math.inf, None
        for one in objects[image]:
            x1, y1 = max(box[0], one["box"][0]), max(box[1], one["box"][1])
            x2, y2 = min(box[2], one["box"][2]), min(box[3], one["box"][3])
            width, height = x2 - x1 + 1, y2 - y1 + 1
            if width > 0 and height > 0:
                union = area(box) + area(one["box"]) - width * height
                if width * height / union > best:
                    best, best_object = width * height / union, one
        hit = miss = 0
        if best > 0.5 or (accepts_half and best == 0.5):
            if not best_object["hard"]:
                hit, miss = (0, 1) if best_object["found"] else (1, 0)
                best_object["found"] = True
        else:
            miss = 1
        hits.append(hit)
        misses.append(miss)
    if total == 0:
        return math.nan
    recall, precision, seen_hits, seen_misses = [], [], 0, 0
    for hit, miss in zip(hits, misses, strict=True):
        seen_hits, seen_misses = seen_hits + hit, seen_misses + miss
        recall.append(seen_hits / total)
        counted = seen_hits + seen_misses
        precision.append(seen_hits / counted if counted else 0.0)
    return (
        eleven_points(recall, precision) if metric == "11point" else area_under(recall, precision)
    )


def area(box):
    return (box[2] - box[0] + 1) * (box[3] - box[1] + 1)


def eleven_points(recall, precision):
    value = 0.0
    for step in range(11):
        reached = [p for r, p in zip(recall, precision, strict=True) if r >= step / 10]
        value += max(reached, default=0.0) / 11
    return value


def area_under(recall, precision):
    rec, pre = [0.0, *recall, 1.0], [0.0, *precision, 0.0]
    for place in range(len(pre) - 2, -1, -1):
        pre[place] = max(pre[place], pre[place + 1])
    return sum((rec[i] - rec[i - 1]) * pre[i] for i in range(1, len(rec)) if rec[i] != rec[i - 1])


def ours(truths, detections, metric, iou_thresh=0.5):
    """The same through half-open boxes: the kit's last pixel is one less."""
    truth = [
        GroundTruth(
            np.array([half_open(b) for b, _, _ in rows], np.float32).reshape(-1, 4),
            np.array([c for _, c, _ in rows], np.int64),
            np.array([hard for _, _, hard in rows], bool),
            np.zeros(len(rows), bool),
            (100, 100),
        )
        for rows in truths
    ]
    found = [
        Detections(
            np.array([half_open(b) for b, _, _ in rows], np.float32).reshape(-1, 4),
            np.array([s for _, s, _ in rows], np.float32),
            np.array([c for _, _, c in rows], np.int64),
        )
        for rows in detections
    ]
    matches = match_classes(truth, found, num_classes=NUM_CLASSES, iou_thresh=iou_thresh)
    return compute_voc_ap(matches, metric)


def half_open(box):
    """XML corners (from 1, inclusive) to half-open ones (from 0)."""
    return [box[0] - 1, box[1] - 1, box[2], box[3]]


def kit(box):
    return [box[0] + 1, box[1] + 1, box[2], box[3]]


def assert_equal(truths, detections, *, accepts_half=False):
    iou_thresh = np.nextafter(0.5, 0) if accepts_half else 0.5
    for metric in METRICS:
        mean, per_class = ours(truths, detections, metric, iou_thresh)
        expected = [
            devkit_ap(truths, detections, cls, metric, accepts_half=accepts_half)
            for cls in range(NUM_CLASSES)
        ]
        np.testing.assert_allclose(per_class, expected, atol=1e-12, equal_nan=True)
        seen = [value for value in expected if not math.isnan(value)]
        np.testing.assert_allclose(mean, np.mean(seen) if seen else math.nan, equal_nan=True)


A, HALF, B, FAR = (kit(BOXES[place]) for place in (0, 1, 5, 7))
CASES = {
    "all scores equal": ([[(A, 0, 0)], [(A, 0, 0)]], [[(FAR, 0.5, 0), (A, 0.5, 0)]] * 2),
    "equal scores across images": (
        [[(A, 0, 0)], [(B, 0, 0)]],
        [[(A, 0.5, 0), (FAR, 0.5, 0)], [(FAR, 0.5, 0), (B, 0.5, 0)]],
    ),
    "an object found three times": ([[(A, 0, 0), (B, 0, 0)]], [[(A, 0.9, 0)] * 3 + [(B, 0.1, 0)]]),
    "the better box comes second": (
        [[(A, 0, 0)]],
        [[(kit(BOXES[2]), 0.9, 0), (A, 0.8, 0)]],
    ),
    "a difficult object found twice": (
        [[(A, 0, 1), (B, 0, 0)]],
        [[(A, 0.9, 0), (A, 0.8, 0), (B, 0.7, 0)]],
    ),
    "a difficult object hides an easy one": (
        [[(A, 0, 1), (kit(BOXES[3]), 0, 0)]],
        [[(A, 0.9, 0), (kit(BOXES[3]), 0.8, 0)]],
    ),
    "two objects with the same box": ([[(A, 0, 0), (A, 0, 0)]], [[(A, 0.9, 0), (A, 0.8, 0)]]),
    "the first of two equal objects is difficult": (
        [[(A, 0, 1), (A, 0, 0)]],
        [[(A, 0.9, 0), (A, 0.8, 0)]],
    ),
    "IoU of exactly one half": ([[(A, 0, 0)]], [[(HALF, 0.9, 0)]]),
    "detections of a class without objects": ([[(A, 0, 0)]], [[(A, 0.9, 1), (A, 0.8, 0)]]),
    "only difficult objects": ([[(A, 2, 1)]], [[(A, 0.9, 2)]]),
    "images without objects or detections": ([[], [(A, 0, 0)], []], [[(A, 0.9, 0)], [], []]),
    "recall of exactly three tenths": (
        [[(A, 0, 0)]] * 10,
        [[(A, 0.9, 0)]] * 3 + [[(FAR, 0.95, 0)]] * 2 + [[]] * 5,
    ),
    "scores that three decimals would make equal": (
        [[(A, 0, 0)], [(A, 0, 0)]],
        [[(FAR, 1e-7, 0), (A, 3e-7, 0)], [(FAR, 1.5e-7, 0), (A, 2e-7, 0)]],
    ),
}


@pytest.mark.parametrize("accepts_half", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_ap_is_the_development_kits(name, accepts_half):
    assert_equal(*CASES[name], accepts_half=accepts_half)


def test_the_kit_of_this_test_gives_the_hand_worked_example():
    truths, detections = [[(A, 0, 0), (B, 0, 0)]], [[(A, 0.9, 0), (FAR, 0.8, 0), (B, 0.7, 0)]]
    assert devkit_ap(truths, detections, 0, "11point") == pytest.approx(0.848485, abs=1e-6)
    assert devkit_ap(truths, detections, 0, "area") == pytest.approx(0.833333, abs=1e-6)


box = st.sampled_from([kit(one) for one in BOXES])
cls = st.integers(0, NUM_CLASSES - 1)
image = st.tuples(
    st.lists(st.tuples(box, cls, st.booleans()), max_size=4),
    st.lists(st.tuples(box, st.sampled_from([0.125, 0.25, 0.5, 1.0]), cls), max_size=6),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(image, min_size=1, max_size=4), st.booleans())
def test_ap_is_the_development_kits_whatever_the_case(images, accepts_half):
    truths, detections = [rows for rows, _ in images], [found for _, found in images]
    assert_equal(truths, detections, accepts_half=accepts_half)
