"""What DINO predicts and what it is compared with."""

from dataclasses import dataclass, field

from torch import Tensor

__all__ = ["DINOOutput", "ImageTargets", "LayerPrediction"]


@dataclass(frozen=True)
class ImageTargets:
    """True (or pseudo) objects of one image: classes int64 (n,), boxes float32 (n, 4).

    Boxes are (center x, center y, width, height) in units of the unpadded image.
    """

    classes: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class LayerPrediction:
    """Logits (N, Q, C) of the classes, without background, and boxes (N, Q, 4) in [0, 1].

    Boxes are (center x, center y, width, height) in units of the unpadded image.
    """

    logits: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class DINOOutput:
    """Predictions of all decoder layers, first to last, and of the encoder's selected tokens.

    ``denoising`` holds those of the denoising queries, layer by layer; empty without them.
    """

    layers: list[LayerPrediction]
    encoder: LayerPrediction
    denoising: list[LayerPrediction] = field(default_factory=list)
