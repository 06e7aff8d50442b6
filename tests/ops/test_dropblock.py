"""Tests of weaksam_d2.ops.dropblock."""

import pytest
import torch

from weaksam_d2.ops import apply_drop_block, sample_centers


def centers_at(*cells: tuple[int, int, int], regions: int = 1) -> torch.Tensor:
    mask = torch.zeros(regions, 1, 3, 3)
    for region, y, x in cells:
        mask[region, 0, y, x] = 1
    return mask


def test_a_block_that_covers_all_leaves_the_features_alone() -> None:
    features = torch.rand(1, 4, 3, 3)
    assert torch.equal(apply_drop_block(features, centers_at((0, 1, 1)), size=3), features)


def test_a_corner_drops_four_cells_and_scales_the_rest() -> None:
    dropped = apply_drop_block(torch.ones(1, 2, 3, 3), centers_at((0, 0, 0)), size=3)
    expected = torch.full((3, 3), 9 / 5)
    expected[:2, :2] = 0
    torch.testing.assert_close(dropped, expected.expand(1, 2, 3, 3))


def test_the_ratio_is_over_all_regions_of_the_batch() -> None:
    """Region 0 loses all of its 9 cells, region 1 none: 18 cells over 9 that are left."""
    dropped = apply_drop_block(torch.ones(2, 1, 3, 3), centers_at((0, 1, 1), regions=2), size=3)
    assert not dropped[0].any()
    torch.testing.assert_close(dropped[1], torch.full((1, 3, 3), 2.0))


def test_no_regions_and_even_sizes() -> None:
    assert apply_drop_block(torch.zeros(0, 4, 3, 3), torch.zeros(0, 1, 3, 3), size=3).shape[0] == 0
    with pytest.raises(ValueError, match="odd, got 2"):
        apply_drop_block(torch.ones(1, 1, 3, 3), centers_at(), size=2)


def test_hard_centers_are_zeros_and_ones_as_often_as_asked_with_a_gradient() -> None:
    torch.manual_seed(0)
    probability = torch.full((20000,), 0.2, requires_grad=True)
    centers = sample_centers(probability, temperature=0.5)
    assert set(centers.tolist()) <= {0.0, 1.0}
    assert centers.mean().item() == pytest.approx(0.2, abs=0.01)
    centers.sum().backward()
    assert probability.grad is not None and (probability.grad > 0).any()


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_certain_cells_are_finite(value: float) -> None:
    centers = sample_centers(torch.full((50,), value), temperature=0.01)
    assert centers.eq(value).all()


def test_soft_centers_lie_between() -> None:
    torch.manual_seed(0)
    centers = sample_centers(torch.full((50,), 0.5), temperature=1.0, hard=False)
    assert ((centers > 0) & (centers < 1)).all()
