"""Errors come as often as asked for, and are of the kind they claim to be."""

import numpy as np
import pytest

from weaksam_d2.evaluation.box_noise import BoxNoise, corrupt_boxes
from weaksam_d2.ops.matching import iou_matrix

BOXES = np.tile([[100.0, 100.0, 200.0, 180.0]], (4000, 1))
CLASSES = np.zeros(4000, np.int64)


def noisy(noise, boxes=BOXES, classes=CLASSES, num_classes=3):
    rng = np.random.default_rng(7)
    size = (300, 400)
    return corrupt_boxes(boxes, classes, size, noise, num_classes=num_classes, rng=rng)


def test_without_noise_nothing_changes():
    boxes, classes = noisy(BoxNoise())
    np.testing.assert_array_equal(boxes, BOXES)
    np.testing.assert_array_equal(classes, CLASSES)


def test_each_error_has_its_share_and_its_overlap():
    overlap = {
        name: iou_matrix(noisy(BoxNoise(**{name: 1.0}))[0], BOXES[:1])[:, 0]
        for name in ("shifted", "part")
    }
    assert overlap["shifted"].max() <= 0.392 and overlap["shifted"].min() >= 0.142
    assert overlap["part"].max() <= 0.361 and overlap["part"].min() >= 0.159
    boxes, _ = noisy(BoxNoise(missing=0.3))
    assert len(boxes) / 4000 == pytest.approx(0.7, abs=0.03)
    boxes, classes = noisy(BoxNoise(wrong=0.5))
    np.testing.assert_array_equal(boxes, BOXES)
    shares = np.bincount(classes, minlength=3) / 4000
    np.testing.assert_allclose(shares, [0.5, 0.25, 0.25], atol=0.03)


def test_a_mixed_level_is_the_share_of_objects_with_an_error():
    boxes, classes = noisy(BoxNoise.mixed(0.4))
    right = (iou_matrix(boxes, BOXES[:1])[:, 0] == 1) & (classes == 0)
    assert right.sum() / 4000 == pytest.approx(0.6, abs=0.03)
    assert len(boxes) / 4000 == pytest.approx(0.9, abs=0.03)


def test_more_noise_leaves_what_was_missing_missing():
    marked = BOXES + np.arange(4000)[:, None] * [0, 0, 0.01, 0]
    few = {box[2] for box in noisy(BoxNoise(missing=0.2), boxes=marked)[0]}
    fewer = {box[2] for box in noisy(BoxNoise(missing=0.6), boxes=marked)[0]}
    assert fewer < few


def test_boxes_stay_inside_the_image():
    boxes, _ = noisy(
        BoxNoise(shifted=1.0), boxes=np.array([[0.0, 0, 400, 300]] * 50), classes=[0] * 50
    )
    assert boxes.min() >= 0 and (boxes.max(axis=0) <= [400, 300, 400, 300]).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()


def test_no_object_is_no_trouble():
    boxes, classes = noisy(BoxNoise.mixed(1.0), boxes=np.zeros((0, 4)), classes=[])
    assert boxes.shape == (0, 4) and classes.shape == (0,)


def test_impossible_noise_is_refused():
    with pytest.raises(ValueError, match="at most 1 in all"):
        BoxNoise(missing=0.7, part=0.5)
    with pytest.raises(ValueError, match="needs two classes"):
        noisy(BoxNoise(wrong=0.1), num_classes=1)
