"""Tests of weaksam_d2.ops.maps."""

import logging

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from weaksam_d2.ops import (
    divide_by_maximum,
    fuse_scales,
    iter_fused_maps,
    max_pool_same,
    normalize_map,
)


def naive_pool(m: np.ndarray, window: int) -> np.ndarray:
    r = window // 2
    pooled = np.empty_like(m)
    for y, x in np.ndindex(*m.shape):
        pooled[y, x] = m[max(0, y - r) : y + r + 1, max(0, x - r) : x + r + 1].max()
    return pooled


def test_normalization_uses_the_extremes_of_each_map() -> None:
    m = torch.tensor([[[2.0, 4, 6]], [[0.6, 0.2, 0.2]]])
    torch.testing.assert_close(
        normalize_map(m), torch.tensor([[[0, 0.5, 1]], [[1.0, 0, 0]]]), atol=1e-7, rtol=0
    )
    exact = normalize_map(torch.tensor([[2.0, 4, 6]], dtype=torch.float64))
    assert exact[0, 2].item() == pytest.approx(1 - 2.5e-9, abs=1e-12)


def test_constant_and_broken_maps_become_zero(caplog: pytest.LogCaptureFixture) -> None:
    m = torch.stack([torch.full((2, 2), 7.0), torch.rand(2, 2), torch.rand(2, 2), torch.eye(2)])
    m[1, 0, 0] = float("nan")
    m[2, 1, 1] = float("inf")
    with caplog.at_level(logging.WARNING):
        normalized = normalize_map(m)
    assert normalized[:3].abs().sum() == 0
    assert normalized[3].max() == 1
    assert "2 maps" in caplog.text


def test_maps_without_pixels_are_refused_and_no_maps_are_fine() -> None:
    with pytest.raises(ValueError, match="H, W"):
        normalize_map(torch.zeros(3, 0, 4))
    assert normalize_map(torch.zeros(0, 3, 4)).shape == (0, 3, 4)


def test_opposite_views_cancel_to_a_constant() -> None:
    attention = torch.softmax(torch.tensor([0.0, 3, 1]).log().nan_to_num(neginf=0.0), dim=0)
    torch.testing.assert_close(attention, torch.tensor([0.2, 0.6, 0.2]))
    view = attention[1:].reshape(1, 1, 2)
    fused = fuse_scales([view], (1, 2))
    torch.testing.assert_close(fused, torch.tensor([[[1.0, 0.0]]]))
    flipped_back = torch.tensor([[[0.4, 0.0]]]).flip(-1)
    both = fuse_scales([torch.tensor([[[0.6, 0.2]]]) + flipped_back], (1, 2))
    assert both.abs().sum() == 0


def test_fusion_upsamples_adds_and_normalizes() -> None:
    generator = torch.Generator().manual_seed(0)
    scales = [torch.rand(5, h, w, generator=generator) for h, w in ((3, 4), (2, 3), (5, 6))]
    total = torch.zeros(5, 9, 13)
    for scale in scales:
        total += F.interpolate(scale[None], size=(9, 13), mode="bilinear", align_corners=False)[0]
    expected = torch.stack([(m - m.min()) / (m.max() - m.min() + 1e-8) for m in total])
    torch.testing.assert_close(fuse_scales(scales, (9, 13)), expected)
    assert torch.equal(fuse_scales(scales, (9, 13), chunk=2), fuse_scales(scales, (9, 13)))


def test_chunks_bound_how_many_maps_are_upsampled() -> None:
    scales = [torch.rand(7, 2, 2).half(), torch.rand(7, 3, 3).half()]
    chunks = list(iter_fused_maps(scales, (8, 8), chunk=3))
    assert [(start, len(part)) for start, part in chunks] == [(0, 3), (3, 3), (6, 1)]
    assert chunks[0][1].dtype == torch.float32


def test_fusion_does_not_change_its_input() -> None:
    scale = torch.rand(2, 4, 4)
    before = scale.clone()
    fuse_scales([scale, scale], (4, 4))
    assert torch.equal(scale, before)


def test_division_by_the_maximum_subtracts_no_minimum() -> None:
    maps = torch.tensor([[[2.0, 1.0], [0.5, -3.0]], [[-1.0, -2.0], [0.0, -4.0]]])
    scaled = divide_by_maximum(maps)
    torch.testing.assert_close(scaled[0], torch.tensor([[2, 1], [0.5, 0]]) / (2 + 1e-5))
    assert not scaled[1].any()  # no positive value: empty, not a division by zero
    broken = divide_by_maximum(torch.tensor([[[float("inf"), 1.0]], [[4.0, 1.0]]]))
    assert not broken[0].any() and broken[1, 0, 0] == pytest.approx(1, abs=1e-5)
    assert divide_by_maximum(maps.double()).dtype == torch.float64
    fused = fuse_scales([maps, maps], (2, 2), normalize="max")
    torch.testing.assert_close(fused, divide_by_maximum(2 * maps))
    torch.testing.assert_close(fuse_scales([maps], (2, 2), normalize="minmax"), normalize_map(maps))
    with pytest.raises(ValueError, match=r"normalize is 'sum', expected one of \['max', 'minmax'"):
        fuse_scales([maps], (2, 2), normalize="sum")


def test_maps_that_are_normalized_already_stay_as_they_are() -> None:
    maps = torch.tensor([[[0.25, 0.5], [0.75, 0.5]], [[0.0, 0.0], [0.0, 1.0]]])
    assert torch.equal(fuse_scales([maps], (2, 2), normalize="none"), maps)
    enlarged = fuse_scales([maps], (7, 5), normalize="none")
    expected = F.interpolate(maps[None], (7, 5), mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(enlarged, expected)
    assert enlarged.min() >= 0 and enlarged.max() <= 1


def test_no_classes_give_no_maps_and_no_scales_are_refused() -> None:
    assert fuse_scales([torch.zeros(0, 2, 2)], (4, 6)).shape == (0, 4, 6)
    with pytest.raises(ValueError, match="at least one scale"):
        fuse_scales([], (4, 4))
    with pytest.raises(ValueError, match="one n"):
        fuse_scales([torch.zeros(1, 2, 2), torch.zeros(2, 2, 2)], (4, 4))
    with pytest.raises(ValueError, match="chunk"):
        fuse_scales([torch.zeros(1, 2, 2)], (4, 4), chunk=0)


def test_pooling_by_hand() -> None:
    row = np.array([[1, 3, 2, 0, 5]], dtype=np.float32)
    assert max_pool_same(row, 3).tolist() == [[3, 3, 3, 5, 5]]
    center = np.zeros((3, 3), np.float32)
    center[1, 1] = 9
    assert (max_pool_same(center, 3) == 9).all()


@pytest.mark.parametrize("window", [1, 3, 5, 7, 9, 11, 13, 15, 17, 129])
def test_pooling_equals_the_naive_one(window: int) -> None:
    rng = np.random.default_rng(window)
    for shape in ((1, 1), (1, 7), (6, 1), (6, 9), (11, 4)):
        m = rng.normal(size=shape).astype(np.float32) - 3  # negative: the border is not zero
        pooled = max_pool_same(m, window)
        np.testing.assert_array_equal(pooled, naive_pool(m, window))
        assert pooled.dtype == np.float32


def test_bad_windows_and_dtypes_are_refused() -> None:
    with pytest.raises(ValueError, match="odd"):
        max_pool_same(np.zeros((3, 3), np.float32), 4)
    with pytest.raises(ValueError, match="int64"):
        max_pool_same(np.zeros((3, 3), np.int64), 3)
