"""Seed miners: which scored proposals of an image supervise the next refinement branch."""

from typing import Any, Protocol

from detectron2.config import configurable
from detectron2.utils.registry import Registry
from torch import Tensor

from weaksam_d2.ops.seeds import Seeds, mist, near_maximum, top_scoring

__all__ = [
    "MIST",
    "SEED_MINER_REGISTRY",
    "NearMaximum",
    "SeedMiner",
    "TopScoring",
    "build_seed_miner",
]

SEED_MINER_REGISTRY: Any = Registry("SEED_MINER")
SEED_MINER_REGISTRY.__doc__ = """
Registry for seed miners. The registered object is called with ``obj(cfg)`` and gives a
:class:`SeedMiner`.
"""


class SeedMiner(Protocol):
    """Picks the seeds of one image from the scores of the branch before."""

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Seeds:
        """Mine one image.

        Args:
            boxes: (R, 4) float32 XYXY, all proposals in file order.
            scores: (R, C) float32, detached, without a background column.
            labels: (m,) int64, the image-level classes, ascending.

        Returns:
            The seeds by class, ascending, then by rank; S = 0 without labels or proposals.
        """
        ...


@SEED_MINER_REGISTRY.register()
class TopScoring:
    """The best proposal of each class (classic OICR; weaksam.md, Sec. 5.4, ``top1``)."""

    @configurable
    def __init__(self, *, zero_row: bool = False) -> None:
        """Set options; ``zero_row`` keeps a seed from being one of a later class as well."""
        self.zero_row = zero_row

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL.WSOD.ZERO_ROW``."""
        return {"zero_row": cfg.MODEL.WSOD.ZERO_ROW}

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Seeds:
        """As :meth:`SeedMiner.__call__`."""
        return top_scoring(boxes, scores, labels, zero_row=self.zero_row)


@SEED_MINER_REGISTRY.register()
class NearMaximum:
    """Every proposal that scores near its class's maximum (WeakSAM's OICR; weaksam.md, 5.4)."""

    @configurable
    def __init__(
        self, *, fraction: float = 0.9, nms_thresh: float = 0.5, keep_one: bool = False
    ) -> None:
        """Set options.

        Args:
            fraction: share of the class's maximum that a seed scores at least, in (0, 1].
            nms_thresh: IoU of the class-agnostic suppression among the seeds of all classes.
            keep_one: put back a class's best seed if the suppression removed all its seeds.
        """
        if not 0 < fraction <= 1:
            raise ValueError(f"MODEL.WSOD.NEAR_MAXIMUM.FRACTION must be in (0, 1], got {fraction}")
        self.fraction = fraction
        self.nms_thresh = nms_thresh
        self.keep_one = keep_one

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL.WSOD.NEAR_MAXIMUM`` and ``KEEP_ONE``."""
        node = cfg.MODEL.WSOD
        return {
            "fraction": node.NEAR_MAXIMUM.FRACTION,
            "nms_thresh": node.NEAR_MAXIMUM.NMS_THRESH,
            "keep_one": node.KEEP_ONE,
        }

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Seeds:
        """As :meth:`SeedMiner.__call__`."""
        return near_maximum(
            boxes,
            scores,
            labels,
            fraction=self.fraction,
            nms_thresh=self.nms_thresh,
            keep_one=self.keep_one,
        )


@SEED_MINER_REGISTRY.register()
class MIST:
    """The top share of a class's proposals, thinned out by overlap (MIST, Alg. 1)."""

    @configurable
    def __init__(
        self, *, top_fraction: float = 0.15, iou_thresh: float = 0.2, suppress: str = "all_prior"
    ) -> None:
        """Set options.

        Args:
            top_fraction: share of the proposals that may become seeds of a class, in (0, 1].
            iou_thresh: a candidate is a seed if its IoU with those before it is below this.
            suppress: ``all_prior`` compares with every higher-ranked candidate (the published
                numbers), ``kept`` with the seeds only (the MIST paper).
        """
        if not 0 < top_fraction <= 1:
            raise ValueError(f"MODEL.WSOD.MIST.TOP_FRACTION must be in (0, 1], got {top_fraction}")
        if suppress not in ("all_prior", "kept"):
            raise ValueError(f"MODEL.WSOD.MIST.SUPPRESS is {suppress!r}, use all_prior or kept")
        self.top_fraction = top_fraction
        self.iou_thresh = iou_thresh
        self.suppress = suppress

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL.WSOD.MIST``."""
        node = cfg.MODEL.WSOD.MIST
        return {
            "top_fraction": node.TOP_FRACTION,
            "iou_thresh": node.IOU_THRESH,
            "suppress": node.SUPPRESS,
        }

    def __call__(self, boxes: Tensor, scores: Tensor, labels: Tensor) -> Seeds:
        """As :meth:`SeedMiner.__call__`."""
        return mist(
            boxes,
            scores,
            labels,
            top_fraction=self.top_fraction,
            iou_thresh=self.iou_thresh,
            suppress=self.suppress,
        )


def build_seed_miner(cfg: Any) -> SeedMiner:
    """Build the miner that ``MODEL.WSOD.SEED_MINER`` names.

    Raises:
        ValueError: if no miner has that name.
    """
    name = cfg.MODEL.WSOD.SEED_MINER
    if name not in SEED_MINER_REGISTRY:
        known = ", ".join(sorted(key for key, _ in SEED_MINER_REGISTRY))
        raise ValueError(f"MODEL.WSOD.SEED_MINER is {name!r}, registered are: {known}")
    miner: SeedMiner = SEED_MINER_REGISTRY.get(name)(cfg)
    return miner
