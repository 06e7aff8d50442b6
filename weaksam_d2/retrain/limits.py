"""Above which losses a region is dropped: fixed numbers, or running percentiles."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from weaksam_d2.ops.drop import percentile_loss, running_limits

from .settings import RoIDropSettings

__all__ = ["Limits", "PercentileLimits"]


@dataclass(frozen=True)
class Limits:
    """Limits of the classification and the box loss: numbers, or (R,) where NaN drops nothing."""

    classification: float | Tensor
    box: float | Tensor


class PercentileLimits(nn.Module):
    """Running percentiles of the losses of objects and of background.

    The buffer ``running`` (float32, in the checkpoint) holds three limits: classification and box
    loss of foreground, classification loss of background; NaN before the first batch that had
    enough regions. Every call updates it. Each rank has its own; the trainer makes them equal when
    it writes a checkpoint (:func:`merge_running`).

    Source: extras.md, Sec. 3.
    """

    NAMES = ("fg_cls", "fg_reg", "bg_cls")
    running: Tensor

    def __init__(self, settings: RoIDropSettings) -> None:
        super().__init__()
        self._percentile = settings.percentile
        self._momentum = settings.ema
        self._drop_background = settings.drop_background
        # On the CPU even where the module is made on the meta device.
        none = torch.full((len(self.NAMES),), float("nan"), dtype=torch.float32, device="cpu")
        self.register_buffer("running", none)

    @torch.no_grad()
    def forward(self, cls_loss: Tensor, box_loss: Tensor, foreground: Tensor) -> Limits:
        """Give the limits (R,) for these losses (R,), and learn from them."""
        batch = torch.stack(
            [
                percentile_loss(cls_loss, foreground, self._percentile),
                percentile_loss(box_loss, foreground, self._percentile),
                percentile_loss(cls_loss, ~foreground, self._percentile),
            ]
        )
        limits, updated = running_limits(self.running, batch, self._momentum)
        self.running.copy_(updated)
        background = limits[2] if self._drop_background else limits.new_tensor(float("nan"))
        return Limits(torch.where(foreground, limits[0], background), limits[1])

    def merge_running(self, of_ranks: Any) -> None:
        """Take the mean of the running limits of all ranks that have one."""
        rows = torch.stack([row.to(self.running) for row in of_ranks])
        self.running.copy_(rows.nanmean(dim=0))

    def _apply(self, fn: Any, recurse: bool = True) -> "PercentileLimits":
        # Half precision is too coarse for a running mean with momentum 0.99.
        applied: PercentileLimits = super()._apply(fn, recurse)
        applied.running = applied.running.float()
        return applied
