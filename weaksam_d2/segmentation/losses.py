"""The loss of a segmentation head that ``MODEL.SEM_SEG_HEAD.LOSS_TYPE`` names."""

from typing import Any

import torch
from detectron2.config import configurable
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.ops import clip_pixel_losses, pixel_cross_entropy

__all__ = ["LabelLoss"]

_KINDS = ("cross_entropy", "clip")


class LabelLoss(nn.Module):
    """Mean loss of the pixels of a batch that have a label; 0 if none has.

    ``cross_entropy``, or ``clip``: cross entropies cut off by
    :func:`~weaksam_d2.ops.pixel_losses.clip_pixel_losses`.

    Source: wsss.md, Sec. 8.4 and 3.3.
    """

    @configurable
    def __init__(
        self,
        *,
        kind: str = "cross_entropy",
        ignore_value: int = 255,
        clip_start: float = 1.2,
        clip_patch: int = 120,
    ) -> None:
        """Make the loss.

        Raises:
            ValueError: another kind.
        """
        super().__init__()
        if kind not in _KINDS:
            # The default of detectron2's DeepLab project keeps the hardest pixels: of labels that
            # nobody drew, the wrong ones.
            raise ValueError(
                f"MODEL.SEM_SEG_HEAD.LOSS_TYPE is {kind!r}, expected one of {_KINDS}; "
                "'hard_pixel_mining' would train on the noise of pseudo labels"
            )
        self.kind = kind
        self.ignore_value = ignore_value
        self.clip_start = clip_start
        self.clip_patch = clip_patch

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``LOSS_TYPE``, ``IGNORE_VALUE``, ``CLIP_START`` and ``CLIP_PATCH``."""
        node = cfg.MODEL.SEM_SEG_HEAD
        return {
            "kind": node.LOSS_TYPE,
            "ignore_value": node.IGNORE_VALUE,
            "clip_start": node.CLIP_START,
            "clip_patch": node.CLIP_PATCH,
        }

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (N, C, H, W) and labels (N, H, W) int64 to a scalar."""
        if self.kind == "cross_entropy":
            return pixel_cross_entropy(logits, labels, ignore=self.ignore_value)
        valid = labels != self.ignore_value
        losses = F.cross_entropy(
            logits.float(), labels, ignore_index=self.ignore_value, reduction="none"
        )
        capped = clip_pixel_losses(losses, valid, start=self.clip_start, patch=self.clip_patch)
        kept = torch.where(valid, capped, capped.new_zeros(()))
        return kept.sum() / valid.sum().clamp(min=1)
