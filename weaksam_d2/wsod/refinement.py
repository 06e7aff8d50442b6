"""Refinement branches and the losses that supervise them with seeds."""

from typing import Any, Protocol

import torch
from detectron2.config import configurable
from detectron2.utils.registry import Registry
from torch import Tensor, nn

from weaksam_d2.ops.seeds import Assignment, Seeds, assign_to_seeds, weighted_ce

from .seed_miner import SeedMiner

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

    seed_miner: SeedMiner | None
    """The miner that belongs to the loss; None: ``MODEL.WSOD.SEED_MINER``."""

    def assign(self, boxes: Tensor, seeds: Seeds, num_classes: int) -> Assignment:
        """What the seeds say about each proposal.

        Args:
            boxes: (R, 4) float32 XYXY.
            seeds: seeds of the image; without any all is background of weight 0.
            num_classes: C, the label of background.
        """
        ...

    def loss(self, logits: Tensor, assignment: Assignment, num_seeds: int) -> Tensor:
        """Loss of one image.

        Args:
            logits: (R, C + 1) float32, background last.
            assignment: from :meth:`assign`; a proposal of weight 0 has no share in the loss.
            num_seeds: seeds of the image; none gives a loss of exactly 0 with a gradient.
        """
        ...


@REFINEMENT_LOSS_REGISTRY.register()
class WeightedCrossEntropy:
    """Each proposal learns the class of its nearest seed, weighted by the seed's score.

    Source: OICR (Tang et al., 2017); weaksam.md, Sec. 5.4.
    """

    node = "MODEL.WSOD"  # of the IoU keys, for messages
    seed_miner: SeedMiner | None = None

    @configurable
    def __init__(
        self,
        *,
        fg_iou: float = 0.5,
        ignore_iou: float = 0.0,
        fg_strict: bool = False,
        log_eps: float = 1e-6,
        norm: str = "rois",
    ) -> None:
        """Set options.

        Args:
            fg_iou: a proposal is foreground if its IoU with its best seed is at least this.
            ignore_iou: a proposal below this IoU has weight 0.
            fg_strict: a foreground proposal's IoU is above ``fg_iou``.
            log_eps: the loss is -log(p + log_eps); 0: log-softmax.
            norm: the sum is divided by all proposals (``rois``) or by those with a weight that is
                not zero (``weights``).
        """
        if not 0 <= ignore_iou <= fg_iou <= 1:
            raise ValueError(
                f"{self.node} needs 0 <= IGNORE_IOU <= FG_IOU <= 1, "
                f"got IGNORE_IOU {ignore_iou} and FG_IOU {fg_iou}"
            )
        if not 0 <= log_eps < 1:
            raise ValueError(f"MODEL.WSOD.LOG_EPS must be in [0, 1), got {log_eps}")
        if norm not in ("rois", "weights"):
            raise ValueError(f"MODEL.WSOD.REFINE_NORM is {norm!r}, use rois or weights")
        self.fg_iou = fg_iou
        self.ignore_iou = ignore_iou
        self.fg_strict = fg_strict
        self.log_eps = log_eps
        self.norm = norm

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``FG_IOU``, ``IGNORE_IOU``, ``FG_IOU_STRICT``, ``LOG_EPS`` and ``REFINE_NORM``."""
        node = cfg.MODEL.WSOD
        return {
            "fg_iou": node.FG_IOU,
            "ignore_iou": node.IGNORE_IOU,
            "fg_strict": node.FG_IOU_STRICT,
            "log_eps": node.LOG_EPS,
            "norm": node.REFINE_NORM,
        }

    def assign(self, boxes: Tensor, seeds: Seeds, num_classes: int) -> Assignment:
        """As :meth:`RefinementLoss.assign`."""
        return assign_to_seeds(
            boxes,
            seeds,
            num_classes=num_classes,
            fg_iou=self.fg_iou,
            ignore_iou=self.ignore_iou,
            fg_strict=self.fg_strict,
        )

    def loss(self, logits: Tensor, assignment: Assignment, num_seeds: int) -> Tensor:
        """As :meth:`RefinementLoss.loss`."""
        del num_seeds
        return weighted_ce(
            logits, assignment.labels, assignment.weights, log_eps=self.log_eps, norm=self.norm
        )

    def __call__(self, logits: Tensor, boxes: Tensor, seeds: Seeds) -> Tensor:
        """Assign, then the loss of one image: logits (R, C + 1), boxes (R, 4)."""
        assignment = self.assign(boxes, seeds, logits.shape[1] - 1)
        return self.loss(logits, assignment, len(seeds.boxes))


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
    """One of the K branches: class logits of every proposal, background last, maybe boxes."""

    def __init__(
        self,
        input_size: int,
        *,
        num_classes: int,
        init_std: float = 0.01,
        regression: str = "none",
    ) -> None:
        """Make the linear layers.

        Args:
            input_size: features of a proposal.
            num_classes: C, without background.
            init_std: standard deviation of the initial weights.
            regression: ``none``, ``class_specific`` (C x 4 numbers) or ``class_agnostic`` (4).
        """
        super().__init__()
        self.classification = nn.Linear(input_size, num_classes + 1)
        nn.init.normal_(self.classification.weight, std=init_std)
        nn.init.zeros_(self.classification.bias)
        sizes = {"none": 0, "class_specific": num_classes, "class_agnostic": 1}
        if regression not in sizes:
            raise ValueError(
                f"MODEL.WSOD.REGRESSION is {regression!r}, expected one of {', '.join(sizes)}"
            )
        self.regression = (
            nn.Linear(input_size, 4 * sizes[regression]) if sizes[regression] else None
        )
        if self.regression is not None:
            nn.init.normal_(self.regression.weight, std=init_std)
            nn.init.zeros_(self.regression.bias)

    def forward(self, features: Tensor) -> Tensor:
        """Float32 logits (R, C + 1) of features (R, input_size)."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.classification(features.float())
        return logits

    def box_deltas(self, features: Tensor) -> Tensor | None:
        """Float32 (R, C, 4), or (R, 1, 4) if they hold for every class; None without regression."""
        if self.regression is None:
            return None
        with torch.autocast(features.device.type, enabled=False):
            deltas: Tensor = self.regression(features.float())
        return deltas.unflatten(1, (-1, 4))
