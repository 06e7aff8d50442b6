"""Tests of weaksam_d2.ops.loss_bins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weaksam_d2.ops import bin_losses


def test_the_example_of_the_specification() -> None:
    found = bin_losses(np.array([0.0, 1, 2, 10]), np.array([False, False, True, True]))
    assert found.count.nonzero()[0].tolist() == [0, 2, 4, 19]
    assert found.error_rate[[0, 2, 4, 19]].tolist() == [0, 0, 1, 1]
    assert np.isnan(found.error_rate[[1, 3, 5, 18]]).all()
    assert (found.low, found.high) == (0, 10)
    # Ranks of bins 0 2 4 19 are 1 2 3 4, of rates 1.5 1.5 3.5 3.5: correlation 4 / sqrt(5 * 4).
    assert found.spearman == pytest.approx(4 / 20**0.5)


def test_equal_losses_and_no_loss_are_defined() -> None:
    found = bin_losses(np.full(3, 7.0), np.array([True, False, False]), bins=4)
    assert found.count.tolist() == [3, 0, 0, 0]
    assert found.error_rate[0] == pytest.approx(1 / 3) and np.isnan(found.spearman)
    empty = bin_losses(np.zeros(0), bins=4)
    assert empty.count.tolist() == [0] * 4 and np.isnan([empty.low, empty.spearman]).all()


def test_without_flags_no_error_rate_is_known() -> None:
    found = bin_losses(np.array([1.0, 2.0]), bins=2)
    assert found.count.tolist() == [1, 1] and np.isnan(found.error_rate).all()


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=40),
    st.integers(1, 9),
)
def test_bins_equal_a_loop(rows: list[tuple[int, bool]], bins: int) -> None:
    losses = [loss for loss, _ in rows]
    low, spread = min(losses), max(losses) - min(losses)
    count, bad = [0] * bins, [0] * bins
    for loss, wrong in rows:
        place = (loss - low) * bins // spread if spread else 0
        place = min(place, bins - 1)
        count[place] += 1
        bad[place] += wrong
    found = bin_losses(np.array(losses, float), np.array([w for _, w in rows]), bins=bins)
    assert found.count.tolist() == count
    expected = [b / c if c else np.nan for b, c in zip(bad, count, strict=True)]
    np.testing.assert_allclose(found.error_rate, expected)


def test_what_cannot_be_binned_is_refused() -> None:
    with pytest.raises(ValueError, match="finite"):
        bin_losses(np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match=r"shape \(2,\)"):
        bin_losses(np.zeros(2), np.zeros(3, bool))
    with pytest.raises(ValueError, match="bins"):
        bin_losses(np.zeros(2), bins=0)
