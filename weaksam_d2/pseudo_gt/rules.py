"""The rules by which detections of an image become pseudo ground truth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from detectron2.utils.registry import Registry

from weaksam_d2.ops.pseudo_gt import Selection, select_adaptive, select_top1

__all__ = [
    "PSEUDO_GT_RULE_REGISTRY",
    "AdaptiveRule",
    "PseudoGTRule",
    "Top1Rule",
    "build_pseudo_gt_rule",
]

PSEUDO_GT_RULE_REGISTRY: Any = Registry("PSEUDO_GT_RULE")
PSEUDO_GT_RULE_REGISTRY.__doc__ = """
Registry for pseudo ground truth rules. The registered object is called with ``obj(cfg)`` and gives
a :class:`PseudoGTRule`.
"""


class PseudoGTRule(Protocol):
    """Selects among the detections of one image."""

    name: ClassVar[str]

    def __call__(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        image_labels: Sequence[int],
    ) -> Selection:
        """Select rows of (N, 4) XYXY boxes, (N,) scores and (N,) contiguous classes."""
        ...

    def parameters(self) -> dict[str, Any]:
        """Give the settings that the output depends on, for its provenance."""
        ...


@dataclass(frozen=True)
class AdaptiveRule:
    """As many boxes as stand out: score threshold, then containment (WeakSAM, Alg. 2).

    The fields are those of :func:`weaksam_d2.ops.pseudo_gt.select_adaptive`.
    """

    name: ClassVar[str] = "adaptive"
    score_thresh: float = 0.3
    containment_thresh: float = 0.85
    norm: str = "minmax"
    contain: str = "area"
    max_per_class: int = 0

    def __post_init__(self) -> None:
        for key in ("score_thresh", "containment_thresh"):
            if not 0 <= getattr(self, key) <= 1:
                raise ValueError(
                    f"WEAKSAM.PSEUDO_GT.{key.upper()} must be in [0, 1], got {getattr(self, key)}"
                )
        for key, allowed in {
            "norm": ("minmax", "release"),
            "contain": ("area", "score", "literal"),
        }.items():
            if getattr(self, key) not in allowed:
                raise ValueError(
                    f"WEAKSAM.PSEUDO_GT.{key.upper()} is {getattr(self, key)!r}, "
                    f"expected one of {', '.join(allowed)}"
                )

    def __call__(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        image_labels: Sequence[int],
    ) -> Selection:
        """As :meth:`PseudoGTRule.__call__`."""
        return select_adaptive(boxes, scores, classes, image_labels, **self.parameters())

    def parameters(self) -> dict[str, Any]:
        """Give all fields."""
        return asdict(self)


@dataclass(frozen=True)
class Top1Rule:
    """The best detection of each class of the image (the paper's baseline, Table 5)."""

    name: ClassVar[str] = "top1"

    def __call__(
        self,
        boxes: np.ndarray,
        scores: np.ndarray,
        classes: np.ndarray,
        image_labels: Sequence[int],
    ) -> Selection:
        """As :meth:`PseudoGTRule.__call__`."""
        return select_top1(boxes, scores, classes, image_labels)

    def parameters(self) -> dict[str, Any]:
        """There are none."""
        return {}


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
