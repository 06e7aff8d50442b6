"""Which mask is taken by which class of a pseudo label (SEPL's assignment and selection)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .masks import MaskSet, Runs, containment, count_overlaps, decode_runs
from .settings import SEPLSettings

__all__ = ["Choice", "choose_masks", "forest", "select_in_forest"]

_INSIDE = 0.95  # of a mask, where another one contains it


@dataclass(frozen=True, eq=False)
class Choice:
    """What SEPL decided about the masks of one image.

    classes int64 (K,): label ids of the seed, rising; pixels int64 (K,): their sizes; owner int64
    (L,): the label id that took the mask, 0 for none; areas int64 (L,); usable bool (L,): neither
    empty nor larger than MAX_MASK_FRACTION.
    """

    classes: np.ndarray
    pixels: np.ndarray
    owner: np.ndarray
    areas: np.ndarray
    usable: np.ndarray
    runs: Runs

    def free(self, label: int) -> np.ndarray:
        """Masks that no class below ``label`` took, bool (L,)."""
        return self.usable & ((self.owner == 0) | (self.owner >= label))


def choose_masks(label: np.ndarray, masks: MaskSet, settings: SEPLSettings) -> Choice:
    """Assign masks to the classes of a seed and keep those that pass the two shares.

    label: uint8 (H, W) of the masks' size, 0 background, 255 ignore.

    Raises:
        ValueError: the sizes differ.

    Source: SEPL, Algorithm 1; wsss.md, Sec. 5.1 and 5.2.
    """
    if tuple(label.shape) != tuple(masks.size):
        raise ValueError(
            f"the masks are {masks.size[0]} x {masks.size[1]} (height x width), the label "
            f"{' x '.join(map(str, label.shape))}: make both from the same image"
        )
    runs = decode_runs(masks.counts, masks.size)
    found = np.bincount(label.ravel(order="K"), minlength=256)
    classes = np.flatnonzero(found[1:255]) + 1
    pixels, areas = found[classes], runs.areas()
    usable = (areas > 0) & (areas <= settings.max_mask_fraction * label.size)
    shared = count_overlaps(runs, label, classes.tolist())
    shared[:, pixels < settings.min_class_pixels] = 0  # such a class takes no mask
    shared[~usable] = 0
    candidates = _assigned(shared) if settings.assign == "best" else shared > 0
    if settings.select == "threshold":
        passed = _passes(shared, areas, pixels, settings) & candidates
        owner = _owners(passed, classes)
    else:
        good = (shared > settings.t1 * areas[:, None]) & candidates
        owner = _owners_in_forest(good, shared, areas, pixels, classes, masks)
    return Choice(classes, pixels, owner, areas, usable, runs)


def _assigned(shared: np.ndarray) -> np.ndarray:
    """The class that each mask shares most with, bool (L, K); a tie goes to the lower id."""
    if not shared.size:
        return np.zeros(shared.shape, bool)
    best = shared.argmax(axis=1)[:, None]
    return (np.arange(shared.shape[1]) == best) & (shared > 0)


def _passes(
    shared: np.ndarray, areas: np.ndarray, pixels: np.ndarray, settings: SEPLSettings
) -> np.ndarray:
    # Quotients of whole numbers: 17 / 20 is exactly the 0.85 that is written in a config.
    of_mask = shared / np.maximum(areas, 1)[:, None]
    of_class = shared / pixels
    above = of_class > settings.t2 if settings.strict else of_class >= settings.t2
    result: np.ndarray = (of_mask > settings.t1) | above
    return result


def _owners(passed: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The lowest class that each mask passes for, as a label id; 0: none."""
    if not passed.size:
        return np.zeros(len(passed), np.int64)
    return np.where(passed.any(axis=1), classes[passed.argmax(axis=1)], 0)


def _owners_in_forest(
    good: np.ndarray,
    shared: np.ndarray,
    areas: np.ndarray,
    pixels: np.ndarray,
    classes: Sequence[int] | np.ndarray,
    masks: MaskSet,
) -> np.ndarray:
    above = forest(containment(masks), areas)
    iou = shared / (areas[:, None] + pixels - shared)
    owner = np.zeros(len(masks), np.int64)
    for column, one in enumerate(classes):
        taken = select_in_forest(above, iou[:, column], good[:, column] & (owner == 0), areas)
        owner[taken] = one
    return owner


def forest(inside: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """Return the ancestors of each mask and the mask itself, bool (L, L): [l, m], m holds l.

    inside: (L, L) as from `containment`. The parent of a mask is the smallest one of a larger area
    (or an equal one and a lower rank) that holds 95 % of its pixels; ties: the lower rank.
    """
    rank = np.arange(len(areas))
    larger = (areas > areas[:, None]) | ((areas == areas[:, None]) & (rank < rank[:, None]))
    holds = larger & (inside >= _INSIDE) & (areas[:, None] > 0)
    above = np.eye(len(areas), dtype=bool)
    parent = np.where(holds, areas, np.iinfo(np.int64).max).argmin(axis=1) if len(areas) else rank
    # Larger masks first, so that the parent's own ancestors are known.
    for mask in np.lexsort((rank, -areas)):
        if holds[mask].any():
            above[mask] |= above[parent[mask]]
    return above


def select_in_forest(
    above: np.ndarray, iou: np.ndarray, good: np.ndarray, areas: np.ndarray
) -> np.ndarray:
    """Return the rows of the masks that one class takes, int64.

    above: bool (L, L) from `forest`. iou: (L,) with the class. good: bool (L,), those that may be
    taken. On each path from a root to a leaf the good mask of the largest IoU is taken (ties: the
    larger mask); of two that hold each other only the one of the larger IoU stays.
    """
    order = np.lexsort((np.arange(len(areas)), -areas))  # the larger, then the lower rank, first
    leaves = above.sum(axis=0) == 1
    value = np.where(good, iou, -1.0)
    paths = np.where(above[np.ix_(leaves, order)], value[order], -1.0)
    if not paths.size:
        return np.zeros(0, np.int64)
    best = paths.argmax(axis=1)
    taken = np.unique(order[best[paths[np.arange(len(paths)), best] >= 0]])
    related = above[np.ix_(taken, taken)]
    better = value[taken] > value[taken][:, None]  # [t, u]: u is better than t
    equal = value[taken] == value[taken][:, None]
    below = related & ~np.eye(len(taken), dtype=bool)  # [t, u]: u holds t
    lost = (((related | related.T) & better) | (below & equal)).any(axis=1)
    result: np.ndarray = taken[~lost]
    return result
