"""Painting masks: the first one stays on top."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from weaksam_d2.ops import paint_first_wins, to_rle


def test_a_pixel_keeps_its_first_label() -> None:
    rng = np.random.default_rng(0)
    masks = rng.random((5, 9, 11)) < 0.4
    labels = [3, 1, 255, 2, 3]
    expected = np.zeros((9, 11), np.uint8)
    for y, x in np.ndindex(9, 11):
        covering = [label for mask, label in zip(masks, labels, strict=True) if mask[y, x]]
        expected[y, x] = covering[0] if covering else 0
    codes = [coco_mask.encode(np.asfortranarray(m, dtype=np.uint8)) for m in masks]
    painted = paint_first_wins(codes, labels, (9, 11))
    assert painted.dtype == np.uint8 and (painted == expected).all()
    assert (paint_first_wins([], [], (2, 3)) == np.zeros((2, 3))).all()


def test_polygons_and_both_kinds_of_codes_are_read() -> None:
    polygons = [[1.0, 1.0, 4.0, 1.0, 4.0, 3.0, 1.0, 3.0], [0.0, 4.0, 2.0, 4.0, 2.0, 5.0, 0.0, 5.0]]
    expected = np.zeros((6, 7), np.uint8)
    expected[1:3, 1:4], expected[4, :2] = 1, 1
    code = coco_mask.encode(np.asfortranarray(expected))
    runs = {"size": [6, 7], "counts": _runs(expected)}
    text = {"size": [6, 7], "counts": code["counts"].decode("ascii")}
    for segmentation in (polygons, runs, text):
        assert (coco_mask.decode(to_rle(segmentation, (6, 7))) == expected).all()


def _runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs of zeros and ones in turn, column by column."""
    runs, value = [0], 0
    for pixel in mask.ravel(order="F").tolist():
        if pixel != value:
            runs.append(0)
            value = pixel
        runs[-1] += 1
    return runs


def test_masks_of_another_size_and_labels_too_few_are_refused() -> None:
    code = coco_mask.encode(np.asfortranarray(np.ones((3, 4), np.uint8)))
    with pytest.raises(ValueError, match="a mask is"):
        paint_first_wins([code], [1], (4, 3))
    with pytest.raises(ValueError):
        paint_first_wins([code], [], (3, 4))
