"""The best label of every pixel."""

import numpy as np
import pytest
import torch

from weaksam_d2.ops import best_labels


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16])
def test_it_is_the_first_of_the_highest_scores(kind: torch.dtype) -> None:
    scores = torch.randint(-3, 3, (7, 101, 127), generator=torch.Generator().manual_seed(0))
    found = best_labels(scores.to(kind))
    assert found.dtype == np.uint8 and (found == scores.numpy().argmax(axis=0)).all()
    assert (best_labels(scores.to(kind).permute(0, 2, 1)) == found.T).all()
    assert not best_labels(scores[:1].float()).any()


def test_a_pixel_without_a_finite_score_is_an_error() -> None:
    scores = torch.zeros(3, 90, 100)
    scores[1, 89, 99] = float("-inf")
    assert best_labels(scores)[89, 99] == 0
    for value in (float("nan"), float("inf")):
        for row in range(3):
            broken = scores.clone()
            broken[row, 89, 99] = value
            with pytest.raises(ValueError, match="not finite"):
                best_labels(broken)


def test_other_shapes_are_refused() -> None:
    for shape in ((2, 3), (0, 2, 2), (256, 2, 2)):
        with pytest.raises(ValueError, match=r"\(N, H, W\)"):
            best_labels(torch.zeros(shape))
