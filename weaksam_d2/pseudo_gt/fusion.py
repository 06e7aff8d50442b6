"""Detections of several detectors on the same images, made one list before a rule selects."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from weaksam_d2.ops.fusion import Fused, fuse_nms, fuse_weighted

__all__ = ["FusionSettings", "build_fusion", "fuse_detections"]

_METHODS = ("", "nms", "wbf")


@dataclass(frozen=True)
class FusionSettings:
    """How lists are joined: ``""`` one after the other, ``"nms"``, or ``"wbf"`` (weighted boxes).

    ``iou``: of boxes that ``nms`` suppresses or ``wbf`` averages, above it. ``weights``: factor of
    each detector's scores, which comes first; () is 1 for all.
    """

    method: str = ""
    iou: float = 0.5
    weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.method not in _METHODS:
            raise ValueError(
                f"WEAKSAM.PSEUDO_GT.FUSE is {self.method!r}, expected one of {_METHODS}"
            )
        if not 0 <= self.iou <= 1:
            raise ValueError(f"WEAKSAM.PSEUDO_GT.FUSE_IOU must be in [0, 1], got {self.iou}")
        if any(not 0 < weight < float("inf") for weight in self.weights):
            raise ValueError(
                f"WEAKSAM.PSEUDO_GT.FUSE_WEIGHTS must be positive numbers, got {self.weights}"
            )

    def check(self, detectors: int) -> None:
        """ValueError if the weights are those of another number of detectors."""
        if self.weights and len(self.weights) != detectors:
            raise ValueError(
                f"WEAKSAM.PSEUDO_GT.FUSE_WEIGHTS has {len(self.weights)} weights for {detectors} "
                "files of detections; give one for each, in their order"
            )

    def parameters(self) -> dict[str, Any]:
        """Give all fields, ready for JSON."""
        return {**asdict(self), "weights": list(self.weights)}


def fuse_detections(
    boxes: np.ndarray,
    scores: np.ndarray,
    groups: np.ndarray,
    detector: np.ndarray,
    *,
    detectors: int,
    settings: FusionSettings,
) -> Fused:
    """Join usable detections of several detectors, group by group.

    boxes: (N, 4) XYXY. scores, groups, detector: (N,); groups are numbers of (image, class) pairs,
    detector counts from 0. Rows of an image are by detector, then as the detector gave them, which
    decides ties. extras.md, Sec. 4.

    Raises:
        ValueError: weights for another number of detectors, or negative scores for ``wbf``.
    """
    settings.check(detectors)
    if settings.weights:
        scores = scores * np.array(settings.weights)[detector]
    if settings.method == "nms":
        return fuse_nms(boxes, scores, groups, iou=settings.iou)
    if settings.method == "wbf":
        return fuse_weighted(boxes, scores, groups, detectors=detectors, iou=settings.iou)
    return Fused(boxes, scores, groups)


def build_fusion(cfg: Any) -> FusionSettings:
    """Read ``WEAKSAM.PSEUDO_GT.FUSE``, ``FUSE_IOU`` and ``FUSE_WEIGHTS``."""
    node = cfg.WEAKSAM.PSEUDO_GT
    return FusionSettings(node.FUSE, node.FUSE_IOU, tuple(float(w) for w in node.FUSE_WEIGHTS))
