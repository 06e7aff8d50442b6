"""Tests of weaksam_d2.ops.pixel_losses."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from weaksam_d2.ops import clip_pixel_losses, pixel_cross_entropy


def slow_clip(losses: torch.Tensor, valid: torch.Tensor, start: float, patch: int) -> torch.Tensor:
    """Pixel by pixel."""
    known = losses[valid]
    mean = known.mean() if len(known) else torch.zeros(())
    if mean > start:
        return losses
    capped = losses.clone()
    for y in range(losses.shape[1]):
        for x in range(losses.shape[2]):
            rows = slice(y // patch * patch, y // patch * patch + patch)
            columns = slice(x // patch * patch, x // patch * patch + patch)
            window = losses[:, rows, columns][valid[:, rows, columns]]
            local = window.mean() if len(window) else torch.zeros(())
            capped[:, y, x] = losses[:, y, x].clamp(max=float(torch.maximum(local, mean)))
    return capped


def test_the_mean_is_over_the_labeled_pixels_of_the_whole_batch() -> None:
    torch.manual_seed(0)
    logits, labels = torch.randn(2, 3, 4, 5), torch.randint(0, 3, (2, 4, 5))
    labels[0] = 255
    labels[0, 0, 0] = 1  # one pixel of the first image, twenty of the second
    each = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    expected = (each[0, 0, 0] + each[1].sum()) / 21
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), expected)


def test_a_batch_without_labels_gives_zero_and_gradients_of_zero() -> None:
    logits = torch.randn(1, 3, 4, 4, requires_grad=True)
    labels = torch.full((1, 4, 4), 255)
    assert F.cross_entropy(logits, labels, ignore_index=255).isnan()  # what it would be
    loss = pixel_cross_entropy(logits, labels)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_half_precision_is_summed_in_full() -> None:
    logits = torch.zeros(1, 2, 400, 400, dtype=torch.bfloat16)
    loss = pixel_cross_entropy(logits, torch.zeros(1, 400, 400, dtype=torch.int64))
    assert loss.item() == pytest.approx(0.693147, abs=1e-5)


def test_the_worked_example_of_the_clipped_losses() -> None:
    losses = torch.tensor([[[0.2, 0.4, 2.0, 1.0], [0.2, 0.4, 1.0, 4.0]]], requires_grad=True)
    capped = clip_pixel_losses(losses, torch.ones(1, 2, 4, dtype=torch.bool), start=1.2, patch=2)
    expected = torch.tensor([[[0.2, 0.4, 2.0, 1.0], [0.2, 0.4, 1.0, 2.0]]])
    torch.testing.assert_close(capped, expected)
    assert capped.mean().item() == pytest.approx(0.9)
    capped.sum().backward()
    assert losses.grad is not None
    assert losses.grad[0, 1].tolist() == [1, 1, 1, 0]  # a pixel that is cut off gives none


def test_above_the_start_nothing_is_cut_off() -> None:
    losses = torch.tensor([[[0.2, 9.0]]])
    valid = torch.ones(1, 1, 2, dtype=torch.bool)
    torch.testing.assert_close(clip_pixel_losses(losses, valid, start=1.2, patch=1), losses)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    height=st.integers(1, 7),
    width=st.integers(1, 7),
    patch=st.integers(1, 4),
    start=st.sampled_from([0.0, 0.5, 1.2]),
)
def test_clipping_is_what_its_slow_reference_says(
    seed: int, height: int, width: int, patch: int, start: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    losses = torch.rand(2, height, width, generator=generator) * 2
    valid = torch.rand(2, height, width, generator=generator) < 0.7
    found = clip_pixel_losses(losses, valid, start=start, patch=patch)
    torch.testing.assert_close(found[valid], slow_clip(losses, valid, start, patch)[valid])
