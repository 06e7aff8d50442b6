"""Tests of weaksam_d2.ops.mil."""

import math

import pytest
import torch
from torch.nn import functional as F

from weaksam_d2.ops import image_level_loss, mil_scores

LN2, LN3 = math.log(2), math.log(3)
CLASS_LOGITS = torch.tensor([[0, LN3], [LN2, 0], [0, 0]])
DETECTION_LOGITS = torch.tensor([[LN2, 0], [0, 0], [0, LN2]])


def test_scores_and_loss_by_hand() -> None:
    scores = mil_scores(CLASS_LOGITS, DETECTION_LOGITS)
    expected = torch.tensor([[0.125, 0.1875], [1 / 6, 1 / 12], [0.125, 0.25]])
    torch.testing.assert_close(scores, expected)
    phi, labels = scores.sum(0), torch.tensor([1, 0])
    torch.testing.assert_close(phi, torch.tensor([0.416667, 0.520833]), atol=1e-6, rtol=0)
    assert image_level_loss(phi, labels, reduce="sum").item() == pytest.approx(1.611176, abs=1e-5)
    assert image_level_loss(phi, labels, reduce="mean").item() == pytest.approx(0.805588, abs=1e-5)


def test_one_proposal_scores_as_its_class_probability() -> None:
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mil_scores(logits, -logits), logits.softmax(1))


def test_permuting_proposals_permutes_scores() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = torch.randn(2, 7, 4, generator=generator)
    order = torch.randperm(7, generator=generator)
    torch.testing.assert_close(mil_scores(a[order], b[order]), mil_scores(a, b)[order])


def test_no_proposals_give_a_finite_loss_with_a_graph() -> None:
    a = torch.zeros(0, 3, requires_grad=True)
    loss = image_level_loss(mil_scores(a, a).sum(0), torch.tensor([1, 0, 0]))
    loss.backward()
    assert loss.isfinite()
    assert a.grad is not None


def test_image_without_labels_is_all_negative() -> None:
    phi = torch.tensor([0.25, 0.5])
    expected = -math.log(0.75) - math.log(0.5)
    assert image_level_loss(phi, torch.zeros(2)).item() == pytest.approx(expected)


def test_clamp_bounds_the_loss() -> None:
    phi = torch.tensor([0.0, 1.0 + 1e-6])
    loss = image_level_loss(phi, torch.tensor([1, 0]), eps=1e-6)
    expected = F.binary_cross_entropy(phi.clamp(1e-6, 1 - 1e-6), torch.tensor([1.0, 0]))
    assert loss.item() == pytest.approx(2 * expected.item(), rel=1e-5)
    no_clamp = image_level_loss(torch.tensor([1.0]), torch.tensor([0]), eps=1e-10)
    assert no_clamp.item() == 100  # the floor of the logarithm


def test_unknown_classes_have_no_term() -> None:
    """phi (.8, .4, .1), y (1, 0, 0), the third unknown (extras.md, Sec. 5)."""
    phi = torch.tensor([0.8, 0.4, 0.1], requires_grad=True)
    labels, known = torch.tensor([1, 0, 0]), torch.tensor([True, True, False])
    mean = image_level_loss(phi, labels, known=known, reduce="mean")
    assert mean.item() == pytest.approx(0.366985, abs=1e-6)
    total = image_level_loss(phi, labels, known=known)
    assert total.item() == pytest.approx(2 * mean.item())
    mean.backward()
    assert phi.grad is not None and phi.grad[2] == 0


@pytest.mark.parametrize("reduce", ["sum", "mean"])
def test_if_all_is_unknown_the_loss_is_zero_with_a_graph(reduce: str) -> None:
    phi = torch.tensor([0.8, 0.4], requires_grad=True)
    known = torch.zeros(2, dtype=torch.bool)
    loss = image_level_loss(phi, torch.tensor([1, 0]), known=known, reduce=reduce)
    loss.backward()
    assert loss.item() == 0
    assert phi.grad is not None and not phi.grad.any()


def test_images_of_a_batch_are_judged_one_by_one() -> None:
    generator = torch.Generator().manual_seed(5)
    phi, labels = torch.rand(4, 3, generator=generator), torch.eye(4, 3)
    known = torch.rand(4, 3, generator=generator) > 0.3
    for reduce in ("sum", "mean"):
        alone = [
            image_level_loss(p, y, known=k, reduce=reduce)
            for p, y, k in zip(phi, labels, known, strict=True)
        ]
        together = image_level_loss(phi, labels, known=known, reduce=reduce)
        torch.testing.assert_close(together, torch.stack(alone))
    with pytest.raises(ValueError, match="known"):
        image_level_loss(phi, labels, known=known[0])


def test_block_is_float32_under_autocast() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        scores = mil_scores(CLASS_LOGITS.bfloat16(), DETECTION_LOGITS.bfloat16())
        loss = image_level_loss(scores.sum(0), torch.tensor([1, 0]))
    assert scores.dtype == loss.dtype == torch.float32


def test_gradient_is_the_numeric_one() -> None:
    generator = torch.Generator().manual_seed(2)
    a, b = torch.randn(2, 3, 2, dtype=torch.float64, generator=generator).requires_grad_()
    target = torch.tensor([1, 0])
    assert torch.autograd.gradcheck(
        lambda p, q: image_level_loss(mil_scores(p, q).sum(0), target), (a, b)
    )


def test_broken_logits_and_bad_arguments_are_refused() -> None:
    bad = CLASS_LOGITS.clone()
    bad[0, 0] = float("nan")
    with pytest.raises(FloatingPointError, match="not finite"):
        mil_scores(bad, DETECTION_LOGITS)
    with pytest.raises(FloatingPointError, match="not finite"):
        mil_scores(CLASS_LOGITS, bad)
    with pytest.raises(ValueError, match=r"\(R, C\)"):
        mil_scores(CLASS_LOGITS, DETECTION_LOGITS[:2])
    with pytest.raises(ValueError, match="max"):
        image_level_loss(torch.zeros(2), torch.zeros(2), reduce="max")
    with pytest.raises(ValueError, match=r"\(C,\)"):
        image_level_loss(torch.zeros(2), torch.zeros(3))
