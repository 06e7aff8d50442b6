"""Instances of one image to a label map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

__all__ = [
    "ORDERS",
    "FuseSettings",
    "Instance",
    "fuse_instances",
    "label_flags",
    "top_instances",
]

ORDERS = ("area", "score", "logit")
_IGNORE = 255


@dataclass(frozen=True)
class Instance:
    """An object: contiguous class, score, mask bool (H, W), where asked for SAM's logits (H, W)."""

    category: int
    score: float
    mask: np.ndarray
    logits: np.ndarray | None = None


@dataclass(frozen=True)
class FuseSettings:
    """How instances share pixels (``BOXSAM.FUSE``).

    order: on top is the smaller ``area``, the better ``score``, or at each pixel the larger SAM
    ``logit`` times score. ignore_band: pixels on both sides of an instance's border that become
    255. uncertain: instances that score below it are 255 instead of their class.

    Raises:
        ValueError: an unknown order or a negative value.
    """

    order: str = "area"
    ignore_band: int = 0
    uncertain: float = 0.0

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(f"BOXSAM.FUSE.ORDER is {self.order!r}, allowed: {', '.join(ORDERS)}")
        if self.ignore_band < 0 or self.uncertain < 0:
            raise ValueError(
                f"BOXSAM.FUSE.IGNORE_BAND {self.ignore_band} and UNCERTAIN {self.uncertain} must "
                "not be negative"
            )

    @classmethod
    def from_node(cls, node: Any) -> "FuseSettings":
        """From the config node ``BOXSAM.FUSE``."""
        return cls(node.ORDER, node.IGNORE_BAND, node.UNCERTAIN)


def fuse_instances(
    instances: Sequence[Instance], size: tuple[int, int], settings: FuseSettings
) -> np.ndarray:
    """Label map uint8 (H, W): class + 1, 0 where there is no instance, 255 to be ignored.

    Without instances all is 0. Source: wsss.md, Sec. 7.5.
    """
    top = top_instances(instances, size, settings.order)
    values = [
        _IGNORE if instance.score < settings.uncertain else instance.category + 1
        for instance in instances
    ]
    label = np.array([*values, 0], np.uint8)[top]  # -1 is the last: background
    if settings.ignore_band:
        side = 2 * settings.ignore_band + 1
        edge = ndimage.maximum_filter(top, side) != ndimage.minimum_filter(top, side)
        label[edge] = _IGNORE
    return label


def top_instances(
    instances: Sequence[Instance], size: tuple[int, int], order: str = "area"
) -> np.ndarray:
    """The instance that each pixel shows, int32 (H, W), -1 for none.

    area: smaller regions lie on top; at a tie the better score, then the lower class. score: the
    better score, then the lower class. logit: the largest logit x score among the instances that
    hold the pixel, then the lower class.

    Raises:
        ValueError: a mask of another size, an unknown order, or ``logit`` without logits.
    """
    if order not in ORDERS:
        raise ValueError(f"BOXSAM.FUSE.ORDER is {order!r}, allowed: {', '.join(ORDERS)}")
    for instance in instances:
        if instance.mask.shape != size:
            raise ValueError(f"a mask has shape {instance.mask.shape}, the image {size}")
    top = np.full(size, -1, np.int32)
    if order == "logit":
        return _by_logit(instances, top)

    def bottom_first(index: int) -> tuple[float, float, int]:
        one = instances[index]
        area = -float(np.count_nonzero(one.mask)) if order == "area" else 0.0
        return area, one.score, -one.category

    for index in sorted(range(len(instances)), key=bottom_first):
        top[instances[index].mask] = index
    return top


def _by_logit(instances: Sequence[Instance], top: np.ndarray) -> np.ndarray:
    best = np.full(top.shape, -np.inf)
    for index in sorted(range(len(instances)), key=lambda i: instances[i].category):
        one = instances[index]
        if one.logits is None:
            raise ValueError("BOXSAM.FUSE.ORDER 'logit' needs SAM's logits, the masks have none")
        value = np.where(one.mask, one.logits.astype(np.float64) * one.score, -np.inf)
        better = value > best
        top[better], best[better] = index, value[better]
    return top


def label_flags(tags: Sequence[int], found: Sequence[int], label: np.ndarray) -> tuple[str, ...]:
    """``no_tags``, or for label ids ``class_empty`` (no object) and ``lost`` (no pixel is left).

    tags, found: contiguous classes. label: uint8 (H, W). Asserts that labels are tagged classes.
    """
    values = np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist()
    present = {value - 1 for value in values if value not in (0, _IGNORE)}
    assert present <= set(tags), f"labels hold {sorted(present)}, the tags are {sorted(tags)}"
    if not tags:
        return ("no_tags",)
    empty = [f"class_empty:{tag + 1}" for tag in sorted(tags) if tag not in found]
    lost = [f"lost:{tag + 1}" for tag in sorted({*found}) if tag not in present]
    return (*empty, *lost)
