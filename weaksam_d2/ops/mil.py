"""Two-stream multiple-instance scores of the proposals of one image, and the image loss."""

import torch
from torch import Tensor

__all__ = ["image_level_loss", "mil_scores"]

_MIN_LOG = -100.0  # the floor of torch's own binary cross entropy


def mil_scores(
    class_logits: Tensor, detection_logits: Tensor, *, check_finite: bool = True
) -> Tensor:
    """Return the two-stream score of each proposal and class: which class it is x who it is.

    class_logits, detection_logits: (R, C) of the R proposals of *one* image. Returns float32
    (R, C): softmax over classes times softmax over proposals; a column sums to at most 1. Computed
    in float32 also under mixed precision. check_finite: look at the logits, which waits for the
    device. Raises ValueError for unlike shapes, FloatingPointError if a logit is not finite.
    WSDDN (Bilen and Vedaldi 2016), Sec. 3.
    """
    if class_logits.ndim != 2 or class_logits.shape != detection_logits.shape:
        shapes = tuple(class_logits.shape), tuple(detection_logits.shape)
        raise ValueError(f"both logits must have one shape (R, C), got {shapes[0]} and {shapes[1]}")
    if check_finite:
        finite = torch.isfinite(class_logits).all() & torch.isfinite(detection_logits).all()
        if not finite:
            raise FloatingPointError(
                "logits of the two-stream head are not finite; lower the learning rate"
            )
    class_share = torch.softmax(_full_precision(class_logits), dim=1)
    proposal_share = torch.softmax(_full_precision(detection_logits), dim=0)
    return class_share * proposal_share


def image_level_loss(
    image_scores: Tensor,
    labels: Tensor,
    *,
    known: Tensor | None = None,
    reduce: str = "sum",
    eps: float = 1e-6,
) -> Tensor:
    """Return the binary cross entropy of the class scores of an image, or of each of B images.

    image_scores: (C,) or (B, C), sums of ``mil_scores`` over proposals, clamped to [eps, 1 - eps].
    labels: the same shape, 1 for each class of the image, else 0; all 0 is legal. known: bool, the
    same shape; False leaves a class out, of the mean's count too (all left out: 0 with a
    gradient). reduce: ``"sum"`` or ``"mean"`` over classes. Returns float32, scalar or (B,).
    Raises ValueError for a bad shape or option. WSDDN, Sec. 3.4; extras.md, Sec. 5.
    """
    if reduce not in ("sum", "mean"):
        raise ValueError(f"reduce must be 'sum' or 'mean', got {reduce!r}")
    shapes = {tuple(x.shape) for x in (image_scores, labels, known) if x is not None}
    if image_scores.ndim not in (1, 2) or len(shapes) > 1:
        raise ValueError(f"scores, labels and known must all be (C,) or (B, C), got {shapes}")
    # Written out, since torch's function is refused under autocast.
    phi = _full_precision(image_scores).clamp(min=eps, max=1 - eps)
    target = labels.to(phi.dtype)
    present = target * phi.log().clamp(min=_MIN_LOG)
    absent = (1 - target) * (1 - phi).log().clamp(min=_MIN_LOG)
    loss = -(present + absent)
    if known is None:
        return loss.sum(dim=-1) if reduce == "sum" else loss.mean(dim=-1)
    total = torch.where(known, loss, torch.zeros_like(loss)).sum(dim=-1)
    return total if reduce == "sum" else total / known.sum(dim=-1).clamp(min=1)


def _full_precision(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
