"""Boxes of an image in its resized and mirrored views, and back."""

import numpy as np
import pytest
import torch
from detectron2.data.transforms import HFlipTransform, ResizeTransform, TransformList

from weaksam_d2.ops import image_to_view, view_to_image

BOXES = torch.tensor([[0.0, 0, 10, 10], [3.5, 7.25, 60, 40], [90, 0, 100, 50]])


@pytest.mark.parametrize("flipped", [False, True])
def test_boxes_go_where_the_pixels_go(flipped: bool) -> None:
    transforms = [ResizeTransform(50, 100, 37, 83)] + [HFlipTransform(83)] * flipped
    expected = TransformList(transforms).apply_box(BOXES.numpy())
    found = image_to_view(BOXES, (50, 100), (37, 83), flipped=flipped)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    back = view_to_image(found, (50, 100), (37, 83), flipped=flipped)
    np.testing.assert_allclose(back.numpy(), BOXES.numpy(), atol=1e-4)


def test_a_mirrored_box_of_an_image_100_wide() -> None:
    mirrored = torch.tensor([[90.0, 0, 100, 10]])
    found = view_to_image(mirrored, (50, 100), (50, 100), flipped=True)
    assert found.tolist() == [[0, 0, 10, 10]]


def test_boxes_of_classes_keep_their_shape() -> None:
    boxes = BOXES[:, None].expand(-1, 5, -1)
    assert view_to_image(boxes, (50, 100), (25, 200), flipped=True).shape == (3, 5, 4)
    assert view_to_image(boxes[:0], (50, 100), (25, 200), flipped=False).shape == (0, 5, 4)
