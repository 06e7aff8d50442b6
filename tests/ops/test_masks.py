"""Tests of weaksam_d2.ops.masks."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from weaksam_d2.ops import (
    decode_rle,
    encode_rle,
    masks_to_boxes,
    resize_matrix,
    stability_score,
)


def test_boxes_are_tight_and_half_open() -> None:
    masks = torch.zeros(3, 5, 5, dtype=torch.bool)
    masks[0, 1:3, 3:5] = True
    masks[1, 0, 0] = True
    boxes = masks_to_boxes(masks)
    assert boxes.dtype == torch.float32
    assert boxes[:2].tolist() == [[3, 1, 5, 3], [0, 0, 1, 1]]
    assert boxes[2].isnan().all()


def test_boxes_equal_the_extremes_of_the_pixels() -> None:
    masks = torch.rand(2, 30, 7, 9, generator=torch.Generator().manual_seed(0)) > 0.97
    boxes = masks_to_boxes(masks)
    for mask, box in zip(masks.flatten(0, 1), boxes.flatten(0, 1), strict=True):
        y, x = mask.nonzero(as_tuple=True)
        if len(x) == 0:
            assert box.isnan().all()
        else:
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0)])
def test_masks_without_pixels_have_no_box(shape: tuple[int, int, int]) -> None:
    boxes = masks_to_boxes(torch.zeros(shape, dtype=torch.bool))
    assert boxes.shape == (shape[0], 4)
    assert boxes.isnan().all()


def test_stability_compares_two_thresholds() -> None:
    logits = torch.tensor([[[2.0, 0.5], [-0.5, -3.0]], [[-5.0, -5.0], [-5.0, -1.0]]])
    score = stability_score(logits)
    assert score[0].item() == pytest.approx(1 / 3)
    assert score[1].isnan()
    assert stability_score(torch.ones(2, 2) * 3).item() == 1


@pytest.mark.parametrize(("src", "dst"), [(4, 11), (11, 4), (1, 5), (5, 1), (7, 7), (256, 1024)])
def test_matrix_resizes_as_bilinear_interpolation(src: int, dst: int) -> None:
    image = torch.randn(1, 1, src, 6, generator=torch.Generator().manual_seed(1))
    expected = F.interpolate(image, size=(dst, 13), mode="bilinear", align_corners=False)[0, 0]
    resized = resize_matrix(src, dst) @ image[0, 0] @ resize_matrix(6, 13).T
    torch.testing.assert_close(resized, expected, atol=1e-4, rtol=0)
    torch.testing.assert_close(resize_matrix(src, dst).sum(1), torch.ones(dst))


def test_a_resize_to_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="dst=0"):
        resize_matrix(3, 0)


def test_run_length_codes_return_the_masks() -> None:
    masks = np.random.default_rng(0).random((3, 6, 4)) > 0.5
    codes = encode_rle(torch.from_numpy(masks))
    assert all(isinstance(code, bytes) for code in codes)
    np.testing.assert_array_equal(decode_rle(codes, (6, 4)), masks)
    assert encode_rle(masks) == codes
    assert decode_rle([], (6, 4)).shape == (0, 6, 4)
    with pytest.raises(ValueError, match="n, H, W"):
        encode_rle(masks[0])
