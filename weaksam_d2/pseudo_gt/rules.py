"""The rules by which detections of an image become pseudo ground truth."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from detectron2.utils.registry import Registry

from weaksam_d2.ops.pseudo_gt import (
    Selection,
    select_adaptive,
    select_all,
    select_sos,
    select_threshold,
    select_top1,
    select_topk,
    select_w2n,
)

__all__ = [
    "PSEUDO_GT_RULE_REGISTRY",
    "AdaptiveRule",
    "AllRule",
    "PseudoGTRule",
    "SoSRule",
    "ThresholdRule",
    "Top1Rule",
    "TopKRule",
    "W2NRule",
    "build_pseudo_gt_rule",
]

PSEUDO_GT_RULE_REGISTRY: Any = Registry("PSEUDO_GT_RULE")
PSEUDO_GT_RULE_REGISTRY.__doc__ = """
Registry for pseudo ground truth rules. The registered object is called with ``obj(cfg)`` and gives
a :class:`PseudoGTRule`.
"""


class PseudoGTRule(Protocol):
    """Selects among detections; those of one class of one image never see others."""

    name: ClassVar[str]

    def __call__(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        image_labels: Sequence[int] | np.ndarray,
    ) -> Selection:
        """Select rows of (N, 4) XYXY boxes, (N,) scores and (N,) classes.

        Called for many images at once: ``classes`` are numbers of (image, class) pairs then, and
        ``image_labels`` (T,) those of the tags, in rising order of the images. The selection is
        by rising class, then by falling score.
        """
        ...

    def parameters(self) -> dict[str, Any]:
        """Give the settings that the output depends on, for its provenance."""
        ...


@dataclass(frozen=True)
class _SelectionRule:
    """A function of ``ops/pseudo_gt.py`` with its settings, which are the fields."""

    name: ClassVar[str]
    select: ClassVar[Callable[..., Selection]]

    def __call__(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        image_labels: Sequence[int] | np.ndarray,
    ) -> Selection:
        """As :meth:`PseudoGTRule.__call__`."""
        return type(self).select(boxes, scores, classes, image_labels, **self.parameters())

    def parameters(self) -> dict[str, Any]:
        """Give all fields."""
        return asdict(self)


@dataclass(frozen=True)
class AdaptiveRule(_SelectionRule):
    """As many boxes as stand out: score threshold, then containment (WeakSAM, Alg. 2).

    The fields are those of :func:`weaksam_d2.ops.pseudo_gt.select_adaptive`.
    """

    name: ClassVar[str] = "adaptive"
    select: ClassVar[Callable[..., Selection]] = staticmethod(select_adaptive)
    score_thresh: float = 0.3
    containment_thresh: float = 0.85
    norm: str = "minmax"
    contain: str = "area"
    max_per_class: int = 0

    def __post_init__(self) -> None:
        _check_share("SCORE_THRESH", self.score_thresh)
        _check_share("CONTAINMENT_THRESH", self.containment_thresh)
        for key, allowed in {
            "norm": ("minmax", "release"),
            "contain": ("area", "score", "literal"),
        }.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"WEAKSAM.PSEUDO_GT.{key.upper()} is {getattr(self, key)!r}, "
                    f"expected one of {', '.join(allowed)}"
                )


@dataclass(frozen=True)
class Top1Rule(_SelectionRule):
    """The best detection of each class of the image (the paper's baseline, Table 5)."""

    name: ClassVar[str] = "top1"
    select: ClassVar[Callable[..., Selection]] = staticmethod(select_top1)


@dataclass(frozen=True)
class TopKRule(_SelectionRule):
    """The ``k`` best detections of each class of the image."""

    name: ClassVar[str] = "topk"
    select: ClassVar[Callable[..., Selection]] = staticmethod(select_topk)
    k: int = 2

    def __post_init__(self) -> None:
        if self.k < 1:
            raise ValueError(f"WEAKSAM.PSEUDO_GT.TOPK must be at least 1, got {self.k}")


@dataclass(frozen=True)
class ThresholdRule(_SelectionRule):
    """Detections whose raw score is at least ``threshold``; a tag may get no box."""

    name: ClassVar[str] = "threshold"
    select: ClassVar[Callable[..., Selection]] = staticmethod(select_threshold)
    threshold: float = 0.5
    max_per_class: int = 0

    def __post_init__(self) -> None:
        _check_finite("THRESHOLD", self.threshold)


@dataclass(frozen=True)
class AllRule(_SelectionRule):
    """Every detection of the image's classes."""

    name: ClassVar[str] = "all"
    select: ClassVar[Callable[..., Selection]] = staticmethod(select_all)
    max_per_class: int = 0


@dataclass(frozen=True)
class SoSRule(_SelectionRule):
    """The best detection and others of a raw score, no parts of bigger boxes (SoS-WSOD's filter).

    The fields are those of :func:`weaksam_d2.ops.pseudo_gt.select_sos`.
    """

    name: ClassVar[str] = "sos"
    select: ClassVar[Callable[..., Selection]] = staticmethod(select_sos)
    score_thresh: float = 0.2
    containment_thresh: float = 0.85
    max_per_class: int = 0

    def __post_init__(self) -> None:
        _check_finite("SOS_THRESH", self.score_thresh)
        _check_share("CONTAINMENT_THRESH", self.containment_thresh)


@dataclass(frozen=True)
class W2NRule(_SelectionRule):
    """The best detection and those of a high raw score, after NMS (W2N's filter).

    The fields are those of :func:`weaksam_d2.ops.pseudo_gt.select_w2n`.
    """

    name: ClassVar[str] = "w2n"
    select: ClassVar[Callable[..., Selection]] = staticmethod(select_w2n)
    threshold: float = 0.7
    nms: float = 0.5
    max_per_class: int = 0

    def __post_init__(self) -> None:
        _check_finite("W2N_THRESH", self.threshold)
        _check_share("W2N_NMS", self.nms)


def _check_share(key: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise ValueError(f"WEAKSAM.PSEUDO_GT.{key} must be in [0, 1], got {value}")


def _check_finite(key: str, value: float) -> None:
    if not math.isfinite(value):
        raise ValueError(f"WEAKSAM.PSEUDO_GT.{key} must be a finite score, got {value}")


@PSEUDO_GT_RULE_REGISTRY.register()
def adaptive(cfg: Any) -> AdaptiveRule:
    """Build the adaptive rule from ``WEAKSAM.PSEUDO_GT``."""
    node = cfg.WEAKSAM.PSEUDO_GT
    return AdaptiveRule(
        score_thresh=node.SCORE_THRESH,
        containment_thresh=node.CONTAINMENT_THRESH,
        norm=node.NORM,
        contain=node.CONTAIN,
        max_per_class=node.MAX_PER_CLASS,
    )


@PSEUDO_GT_RULE_REGISTRY.register()
def top1(cfg: Any) -> Top1Rule:
    """Build the top-1 rule."""
    del cfg
    return Top1Rule()


@PSEUDO_GT_RULE_REGISTRY.register()
def topk(cfg: Any) -> TopKRule:
    """Build the top-k rule."""
    return TopKRule(k=cfg.WEAKSAM.PSEUDO_GT.TOPK)


@PSEUDO_GT_RULE_REGISTRY.register()
def threshold(cfg: Any) -> ThresholdRule:
    """Build the rule of a fixed threshold."""
    node = cfg.WEAKSAM.PSEUDO_GT
    return ThresholdRule(threshold=node.THRESHOLD, max_per_class=node.MAX_PER_CLASS)


@PSEUDO_GT_RULE_REGISTRY.register()
def sos(cfg: Any) -> SoSRule:
    """Build the filter of SoS-WSOD."""
    node = cfg.WEAKSAM.PSEUDO_GT
    return SoSRule(
        score_thresh=node.SOS_THRESH,
        containment_thresh=node.CONTAINMENT_THRESH,
        max_per_class=node.MAX_PER_CLASS,
    )


@PSEUDO_GT_RULE_REGISTRY.register()
def w2n(cfg: Any) -> W2NRule:
    """Build the filter of W2N."""
    node = cfg.WEAKSAM.PSEUDO_GT
    return W2NRule(threshold=node.W2N_THRESH, nms=node.W2N_NMS, max_per_class=node.MAX_PER_CLASS)


# A registered name is that of its function; no line of this file needs Python's own ``all``.
@PSEUDO_GT_RULE_REGISTRY.register()
def all(cfg: Any) -> AllRule:
    """Build the rule that filters nothing."""
    return AllRule(max_per_class=cfg.WEAKSAM.PSEUDO_GT.MAX_PER_CLASS)


def build_pseudo_gt_rule(cfg: Any) -> PseudoGTRule:
    """Build the rule that ``WEAKSAM.PSEUDO_GT.RULE`` names.

    Raises:
        ValueError: if no rule has that name.
    """
    name = cfg.WEAKSAM.PSEUDO_GT.RULE
    if name not in PSEUDO_GT_RULE_REGISTRY:
        known = ", ".join(sorted(key for key, _ in PSEUDO_GT_RULE_REGISTRY))
        raise ValueError(f"WEAKSAM.PSEUDO_GT.RULE is {name!r}, registered are: {known}")
    rule: PseudoGTRule = PSEUDO_GT_RULE_REGISTRY.get(name)(cfg)
    return rule
