"""Semantic segmentation through several views of an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SemSegWithTTA", "asks_for_views"]


def asks_for_views(cfg: Any) -> bool:
    """Whether ``TEST.SEM_SEG_SCALES`` and ``SEM_SEG_FLIP`` name more than the image itself."""
    return tuple(cfg.TEST.SEM_SEG_SCALES) != (1.0,) or bool(cfg.TEST.SEM_SEG_FLIP)


class SemSegWithTTA(nn.Module):
    """A segmenter whose probabilities are averaged over scales and mirror images.

    Scales are of the image as the data loader resized it. ``sem_seg`` are probabilities
    (C, height, width) at the original size. wsss.md, Sec. 8.1.
    """

    def __init__(
        self, model: nn.Module, *, scales: Sequence[float], flip: bool, logits: bool
    ) -> None:
        """Wrap a model; ``logits``: it gives logits, which a softmax makes probabilities.

        Raises:
            ValueError: no scale, or one that is not above 0.
        """
        super().__init__()
        if not scales or min(scales) <= 0:
            raise ValueError(f"TEST.SEM_SEG_SCALES is {tuple(scales)}, expected factors above 0")
        self.model = model
        self.scales = tuple(float(scale) for scale in scales)
        self.flip = flip
        self.logits = logits

    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Tensor]]:
        """Images one by one, all views of each; raises RuntimeError in training mode."""
        if self.training:
            raise RuntimeError("SemSegWithTTA is for evaluation; train the model that it wraps")
        return [{"sem_seg": self._mean(sample)} for sample in batched_inputs]

    def _mean(self, sample: Mapping[str, Any]) -> Tensor:
        image = sample["image"].float()
        size = {"height": image.shape[-2], "width": image.shape[-1]}
        rest = {**size, **{key: value for key, value in sample.items() if key != "image"}}
        total, count = torch.zeros(()), 0
        for scale in self.scales:
            view = _resized(image, scale)
            for mirrored in (False, True) if self.flip else (False,):
                shown = {**rest, "image": view.flip(-1) if mirrored else view}
                scores = self.model([shown])[0]["sem_seg"].float()
                scores = scores.softmax(dim=0) if self.logits else scores
                total = total.to(scores.device) + (scores.flip(-1) if mirrored else scores)
                count += 1
        return total / count


def _resized(image: Tensor, scale: float) -> Tensor:
    """An image (3, H, W) at another scale; smoothed when it shrinks, as the mapper does."""
    if scale == 1:
        return image
    height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
    resized = F.interpolate(
        image[None], size=(height, width), mode="bilinear", align_corners=False, antialias=True
    )
    return resized[0]
