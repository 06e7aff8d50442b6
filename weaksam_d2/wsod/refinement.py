"""Refinement branches and the losses that supervise them with seeds."""

from typing import Any, Protocol

import torch
from detectron2.config import configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from weaksam_d2.ops.seeds import Seeds, assign_to_seeds, weighted_ce

__all__ = [
    "REFINEMENT_LOSS_REGISTRY",
    "RefinementBranch",
    "RefinementLoss",
    "WeightedCrossEntropy",
    "build_refinement_loss",
]

REFINEMENT_LOSS_REGISTRY: Any = Registry("REFINEMENT_LOSS")
REFINEMENT_LOSS_REGISTRY.__doc__ = """
Registry for refinement losses. The registered object is called with ``obj(cfg)`` and gives a
:class:`RefinementLoss`.
"""


class RefinementLoss(Protocol):
    """How the seeds of one image supervise one branch."""

    def __call__(self, logits: Tensor, boxes: Tensor, seeds: Seeds) -> Tensor:
        """Loss of one image.

        Args:
            logits: (R, C + 1) float32, background last.
            boxes: (R, 4) float32 XYXY.
            seeds: seeds of the image; none gives a loss of exactly 0 with a gradient.
        """
        ...


@REFINEMENT_LOSS_REGISTRY.register()
class WeightedCrossEntropy:
    """Each proposal learns the class of its nearest seed, weighted by the seed's score.

    Source: OICR (Tang et al., 2017); weaksam.md, Sec. 5.4.
    """

    @configurable
    def __init__(self, *, fg_iou: float = 0.5, ignore_iou: float = 0.0) -> None:
        """Set options.

        Args:
            fg_iou: a proposal is foreground if its IoU with its best seed is at least this.
            ignore_iou: a proposal below this IoU has weight 0.
        """
        if not 0 <= ignore_iou <= fg_iou <= 1:
            raise ValueError(
                "MODEL.WSOD needs 0 <= IGNORE_IOU <= FG_IOU <= 1, "
                f"got IGNORE_IOU {ignore_iou} and FG_IOU {fg_iou}"
            )
        self.fg_iou = fg_iou
        self.ignore_iou = ignore_iou

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL.WSOD.FG_IOU`` and ``IGNORE_IOU``."""
        return {"fg_iou": cfg.MODEL.WSOD.FG_IOU, "ignore_iou": cfg.MODEL.WSOD.IGNORE_IOU}

    def __call__(self, logits: Tensor, boxes: Tensor, seeds: Seeds) -> Tensor:
        """As :meth:`RefinementLoss.__call__`."""
        assignment = assign_to_seeds(
            boxes,
            seeds,
            num_classes=logits.shape[1] - 1,
            fg_iou=self.fg_iou,
            ignore_iou=self.ignore_iou,
        )
        return weighted_ce(logits, assignment.labels, assignment.weights)


def build_refinement_loss(cfg: Any) -> RefinementLoss:
    """Build the loss that ``MODEL.WSOD.REFINEMENT_LOSS`` names.

    Raises:
        ValueError: if no loss has that name.
    """
    name = cfg.MODEL.WSOD.REFINEMENT_LOSS
    if name not in REFINEMENT_LOSS_REGISTRY:
        known = ", ".join(sorted(key for key, _ in REFINEMENT_LOSS_REGISTRY))
        raise ValueError(f"MODEL.WSOD.REFINEMENT_LOSS is {name!r}, registered are: {known}")
    loss: RefinementLoss = REFINEMENT_LOSS_REGISTRY.get(name)(cfg)
    return loss


class RefinementBranch(nn.Module):
    """One of the K branches: class logits of every proposal, background last."""

    def __init__(self, input_size: int, *, num_classes: int, init_std: float = 0.01) -> None:
        """Make the linear layer; ``input_size`` features in, ``num_classes`` + 1 logits out."""
        super().__init__()
        self.classification = nn.Linear(input_size, num_classes + 1)
        nn.init.normal_(self.classification.weight, std=init_std)
        nn.init.zeros_(self.classification.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Float32 logits (R, C + 1) of features (R, input_size)."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.classification(features.float())
        return logits
