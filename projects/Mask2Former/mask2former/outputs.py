"""What Mask2Former predicts and what it is compared with."""

from dataclasses import dataclass

from torch import Tensor

__all__ = ["LayerPrediction", "MaskTargets"]


@dataclass(frozen=True)
class MaskTargets:
    """Objects (or the classes' regions) of one image, on the canvas that the network sees.

    classes: int64 (n,). masks: bool (n, H, W). valid: bool (H, W), pixels that the losses of masks
    may look at; None: all.
    """

    classes: Tensor
    masks: Tensor
    valid: Tensor | None = None


@dataclass(frozen=True)
class LayerPrediction:
    """Logits (N, Q, C + 1), the last is "no object", and mask logits (N, Q, h, w), stride 4."""

    logits: Tensor
    masks: Tensor
