"""One pair of matrices is the two bilinear resizes of segment_anything's postprocessing."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.sam import upsampling
from weaksam_d2.sam.upsampling import MaskReader, interpolation_matrix


def postprocess(
    logits: Tensor, square: int, crop: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    up = F.interpolate(logits, (square, square), mode="bilinear", align_corners=False)
    return F.interpolate(up[..., : crop[0], : crop[1]], size, mode="bilinear", align_corners=False)


CASES = [
    ((64, 64), 256, (256, 192), (375, 281)),
    ((64, 64), 256, (171, 256), (47, 70)),
    ((32, 32), 128, (3, 128), (5, 230)),
    ((16, 16), 64, (64, 64), (64, 64)),
    ((16, 16), 64, (1, 64), (1, 300)),
]


@pytest.mark.parametrize(("low", "square", "crop", "size"), CASES)
def test_equals_two_interpolations(
    low: tuple[int, int], square: int, crop: tuple[int, int], size: tuple[int, int]
) -> None:
    logits = torch.randn(2, 3, *low, generator=torch.Generator().manual_seed(0)) * 10
    reader = MaskReader(low_size=low, square=square, input_size=crop, image_size=size)
    expected = postprocess(logits.double(), square, crop, size).float()
    torch.testing.assert_close(reader.upsample(logits), expected, atol=2e-5, rtol=1e-5)


def test_rows_of_the_matrix_sum_to_one() -> None:
    matrix = interpolation_matrix(16, 64, 41, 100)
    assert matrix.shape == (100, 16)
    torch.testing.assert_close(matrix.sum(1), torch.ones(100, dtype=torch.float64))


def test_boxes_stability_and_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upsampling, "_PIXELS", {"cpu": 2 * 40 * 30})  # parts of two masks
    logits = torch.full((2, 2, 16, 16), -9.0)
    logits[0, 0, 2:9, 3:11] = 9.0
    logits[1, 1, :, :] = 9.0
    reader = MaskReader(low_size=(16, 16), square=64, input_size=(64, 48), image_size=(40, 30))
    boxes, stability, masks = reader.read(logits, masks=True)
    full = postprocess(logits, 64, (64, 48), (40, 30))
    assert masks is not None and torch.equal(masks, full > 0)
    rows, columns = torch.where(masks[0, 0])
    edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    assert boxes[0, 0].tolist() == [float(e) for e in edges]
    assert boxes[1, 1].tolist() == [0.0, 0.0, 30.0, 40.0]
    assert boxes[0, 1].isnan().all() and boxes[1, 0].isnan().all()
    expected = (full[0, 0] > 1).sum() / (full[0, 0] > -1).sum()
    assert 0.5 < expected < 1
    assert stability[0, 0] == expected
    assert stability[0, 1].isnan()


def test_low_boxes_are_scaled_and_the_padding_is_left_out() -> None:
    logits = torch.full((1, 2, 16, 16), -9.0)
    logits[0, 0, 4:8, 2:6] = 9.0
    logits[0, 0, :, 12:] = 9.0  # in the padding
    logits[0, 1, :, 12:] = 9.0
    reader = MaskReader(
        low_size=(16, 16), square=64, input_size=(64, 48), image_size=(128, 96), boxes_at="low"
    )
    boxes, stability, masks = reader.read(logits)
    assert masks is None
    assert boxes[0, 0].tolist() == [16.0, 32.0, 48.0, 64.0]  # 8 pixels for each logit
    assert boxes[0, 1].isnan().all()
    assert stability[0, 0] == 1.0


def test_low_boxes_end_at_the_image() -> None:
    logits = torch.full((1, 1, 16, 16), 9.0)
    reader = MaskReader(
        low_size=(16, 16), square=64, input_size=(64, 46), image_size=(100, 72), boxes_at="low"
    )
    assert reader.read(logits)[0][0, 0].tolist() == [0.0, 0.0, 72.0, 100.0]


def test_no_masks_and_a_wrong_resolution() -> None:
    sizes = {"low_size": (16, 16), "square": 64, "input_size": (64, 48), "image_size": (40, 30)}
    boxes, stability, masks = MaskReader(**sizes).read(torch.zeros(0, 3, 16, 16), masks=True)
    assert boxes.shape == (0, 3, 4) and stability.shape == (0, 3)
    assert masks is not None and masks.shape == (0, 3, 40, 30)
    with pytest.raises(ValueError, match="'medium'"):
        MaskReader(**sizes, boxes_at="medium")
