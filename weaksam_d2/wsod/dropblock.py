"""Concrete DropBlock: a small network that hides the parts which a detector relies on."""

from typing import Any

import torch
from detectron2.config import configurable
from torch import Tensor, nn

from weaksam_d2.ops.dropblock import apply_drop_block, sample_centers

__all__ = ["ConcreteDropBlock", "build_drop_block"]

# The block that makes the map; the first channel is used (weaksam.md, Sec. 5.5).
CHANNELS = 2


class ConcreteDropBlock(nn.Module):
    """Drops blocks of pooled regions in training, where a generator says so.

    The generator learns to raise the loss of the detector, in an optimizer step of its own
    (``engine/training/adversarial_step.py``). Outside of that step its parameters require no
    gradient, so that the main optimizer and data-parallel training leave them alone.

    Source: MIST (Ren et al., 2020), Sec. 3.4; weaksam.md, Sec. 5.5.
    """

    @configurable
    def __init__(
        self,
        channels: int,
        *,
        tau: float = 0.3,
        size: int = 3,
        temperature: float = 0.01,
        hard: bool = True,
    ) -> None:
        """Make the generator.

        Args:
            channels: of a pooled region.
            tau: a cell is a center with probability below tau / size^2, in (0, 1].
            size: side of a dropped block in cells, odd.
            temperature: of the Gumbel softmax.
            hard: straight-through masks of 0 and 1.

        Raises:
            ValueError: if a value is out of range.
        """
        super().__init__()
        if not 0 < tau <= 1 or size < 1 or size % 2 == 0 or temperature <= 0:
            raise ValueError(
                "MODEL.WSOD.DROPBLOCK needs TAU in (0, 1], SIZE odd and TEMPERATURE > 0, "
                f"got {tau}, {size} and {temperature}"
            )
        self.size = size
        self.ceiling = tau / size**2
        self.temperature = temperature
        self.hard = hard
        self.residual = nn.Sequential(
            nn.Conv2d(channels, CHANNELS, 3, padding=1, bias=False),
            nn.BatchNorm2d(CHANNELS),
            nn.ReLU(),
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
        )
        self.shortcut = nn.Conv2d(channels, CHANNELS, 1)
        self.requires_grad_(False)

    @classmethod
    def from_config(cls, cfg: Any, channels: int) -> dict[str, Any]:
        """Read ``MODEL.WSOD.DROPBLOCK``."""
        node = cfg.MODEL.WSOD.DROPBLOCK
        return {
            "channels": channels,
            "tau": node.TAU,
            "size": node.SIZE,
            "temperature": node.TEMPERATURE,
            "hard": node.HARD,
        }

    def probability(self, regions: Tensor) -> Tensor:
        """Float32 (R, 1, h, w): how likely a cell of regions (R, channels, h, w) is a center."""
        regions = regions.detach().float()
        with torch.autocast(regions.device.type, enabled=False):
            maps: Tensor = self.residual(regions) + self.shortcut(regions)
        return self.ceiling * torch.sigmoid(maps[:, :1])

    def forward(self, regions: Tensor) -> Tensor:
        """Regions (R, channels, h, w) without their dropped blocks; unchanged in evaluation."""
        if not self.training or len(regions) == 0:
            return regions
        centers = sample_centers(
            self.probability(regions), temperature=self.temperature, hard=self.hard
        )
        return apply_drop_block(regions, centers, size=self.size)


def build_drop_block(cfg: Any, channels: int) -> ConcreteDropBlock | None:
    """Build what ``MODEL.WSOD.DROPBLOCK.METHOD`` names; None if it is empty.

    Raises:
        ValueError: for another name.
    """
    method = cfg.MODEL.WSOD.DROPBLOCK.METHOD
    if method not in ("", "concrete"):
        raise ValueError(f"MODEL.WSOD.DROPBLOCK.METHOD is {method!r}, use concrete, or '' for none")
    return ConcreteDropBlock(cfg, channels) if method else None
