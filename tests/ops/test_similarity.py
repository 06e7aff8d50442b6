"""Mean cosine similarity of rows against a loop over pairs."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.ops import mean_cosine_similarity


def reference(features: torch.Tensor) -> float:
    values = []
    for i, a in enumerate(features.double()):
        for j, b in enumerate(features.double()):
            if i != j:
                length = float(a.norm() * b.norm())
                values.append(float(a @ b) / length if length else 0.0)
    return sum(values) / len(values)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([[1, 2], [1, 2], [1, 2]], 1.0),
        ([[1, 2], [10, 20]], 1.0),  # length does not matter
        ([[1, 0], [0, 3]], 0.0),
        ([[1, 0], [-2, 0]], -1.0),
        ([[1, 0], [0, 1], [1, 1]], (0 + 2 * math.sqrt(0.5)) / 3),
        ([[1, 0], [1, 0], [0, 0]], 1 / 3),  # a row of zeros is similar to nothing
        ([[0, 0], [0, 0]], 0.0),
    ],
)
def test_hand_worked_rows(rows, expected):
    assert float(mean_cosine_similarity(torch.tensor(rows).float())) == pytest.approx(expected)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(n=st.integers(2, 12), d=st.integers(1, 5), seed=st.integers(0, 99), zero=st.booleans())
def test_sum_of_unit_rows_equals_the_loop_over_pairs(n, d, seed, zero):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(n, d, generator=generator)
    features[0] *= 0 if zero else 100
    value = float(mean_cosine_similarity(features))
    assert value == pytest.approx(reference(features), abs=1e-9)
    order = torch.randperm(n, generator=generator)
    assert float(mean_cosine_similarity(features[order])) == pytest.approx(value, abs=1e-9)


def test_one_row_or_none_has_no_pair():
    for count in (0, 1):
        assert math.isnan(float(mean_cosine_similarity(torch.ones(count, 3))))


@pytest.mark.parametrize("bad", [torch.ones(3), torch.tensor([[1.0, float("nan")], [1, 1]])])
def test_bad_features_are_refused(bad):
    with pytest.raises(ValueError, match=r"finite \(n, d\), got shape"):
        mean_cosine_similarity(bad)
