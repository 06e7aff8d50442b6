"""Counts of classes, batch by batch."""

import numpy as np

from weaksam_d2.pseudo_gt import format_statistics
from weaksam_d2.pseudo_gt.statistics import PseudoGTCounter


def test_batches_add_up_and_the_table_shows_them() -> None:
    counter = PseudoGTCounter(["cat", "dog"])
    counter.leave_out(degenerate=2, untagged=1)
    # image 0: cat (pair 0) and dog (1), image 1: dog (3); the rule takes two cats of image 0
    counter.add(2, np.array([0, 1, 3]), np.array([0, 0, 3]), np.array([0, 0]), np.array([0.5, 0.7]))
    counter.add(3, np.array([2]), np.array([2]), np.array([2]), np.array([0.9]))  # image 1: cat
    counter.add(1, np.zeros(0, int), np.zeros(0, int), np.zeros(0, int), np.zeros(0))
    report = counter.report().as_dict()
    per_class = report.pop("per_class")
    assert report == {
        "images": 6,
        "images_without_annotation": 4,
        "annotations": 3,
        "boxes_per_image": 0.5,
        "boxes_per_class": {"cat": 3, "dog": 0},
        "skipped_classes": 1,
        "pairs_without_boxes": 2,
        "untagged_detections": 1,
        "degenerate_detections": 2,
    }
    assert per_class["cat"] == {
        "boxes": 3,
        "images_with_tag": 2,
        "images_with_boxes": 2,
        "pairs_without_boxes": 0,
        "score_quantiles": [0.5, 0.6, 0.7, 0.8, 0.9],
    }
    assert per_class["dog"]["pairs_without_boxes"] == 2
    text = format_statistics({**report, "per_class": per_class}).splitlines()
    assert "pairs_without_boxes: 2" in text
    assert text[-2].split() == ["cat", "3", "2", "0", "0.500", "0.600", "0.700", "0.800", "0.900"]
    assert text[-1].split() == ["dog", "0", "2", "2", *"-----"]
