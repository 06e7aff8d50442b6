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
from weaksam_d2.ops.masks import masks_above


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masks_boxes_and_stability_by_numpy_equal_torch_exactly(dtype: torch.dtype) -> None:
    logits = torch.randn(3, 4, 17, 23, generator=torch.Generator().manual_seed(2)).to(dtype)
    logits[0, :, 3:9] = torch.tensor([1.0, -1.0, 0.0, float("nan")])[:, None, None]
    for values in (logits, logits.transpose(-1, -2)[:, ::2, 1:], logits[0, 0], logits[:0]):
        for threshold in (0.0, 1.0, -0.1):
            assert torch.equal(masks_above(values, threshold), values > threshold)
        mask = values > 0
        rows, columns = mask.any(-1), mask.any(-2)
        boxes = masks_to_boxes(mask)
        assert torch.equal(boxes[..., 0].isnan(), ~rows.any(-1))
        present = rows.any(-1)
        first, last = rows.int().argmax(-1), rows.shape[-1] - rows.flip(-1).int().argmax(-1)
        assert torch.equal(boxes[..., 1][present], first[present].float())
        assert torch.equal(boxes[..., 3][present], last[present].float())
        assert torch.equal(
            boxes[..., 2][present] > boxes[..., 0][present], columns.any(-1)[present]
        )
        high, low = (values > 1).sum((-1, -2)), (values > -1).sum((-1, -2))
        score = stability_score(values)
        torch.testing.assert_close(score, high / low, atol=0, rtol=0, equal_nan=True)


def test_stability_without_pixels_is_undefined() -> None:
    assert stability_score(torch.zeros(2, 0, 4)).isnan().tolist() == [True, True]
