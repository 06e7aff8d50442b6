"""Label maps from activation maps and from painted regions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "IGNORE",
    "add_background",
    "background_score",
    "cam_to_label",
    "ignore_uncertain",
    "paint_order",
    "paint_regions",
]

IGNORE = 255
_MAX_CLASS = IGNORE - 2  # its label is the class + 1

Map = NDArray[np.floating[Any]]


def _rule(background: str) -> tuple[str, float]:
    """("constant", t) or ("power", alpha) of "constant:t" or "power:alpha"."""
    kind, _, number = background.partition(":")
    try:
        value = float(number)
    except ValueError:
        value = -1.0
    if kind not in ("constant", "power") or not 0 <= value < np.inf:
        raise ValueError(
            f"WEAKSAM.LABELS.BACKGROUND is {background!r}, expected 'constant:t' (score of the "
            "background) or 'power:a' (one minus the best class, to the power a), neither negative"
        )
    return kind, value


def background_score(cam: Map, background: str = "constant:0.43") -> Map:
    """Score of the background at each pixel.

    cam: (K, H, W) in [0, 1]. background: "constant:t" gives t, "power:a" gives
    (1 - max_k cam_k)^a. Returns (H, W) of the same type. Raises ValueError for another rule.
    wsss.md, Sec. 3.1.
    """
    kind, value = _rule(background)
    scores: Map = np.full(cam.shape[1:], value, dtype=cam.dtype)
    if kind == "power":
        best = cam.max(axis=0, initial=0.0)
        scores = ((1 - best) ** value).astype(cam.dtype)
    return scores


def add_background(cam: Map, background: str = "constant:0.43") -> Map:
    """Scores (K + 1, H, W) of background and classes; see ``background_score``."""
    return np.concatenate([background_score(cam, background)[None], cam])


def cam_to_label(
    cam: Map, classes: Sequence[int] | NDArray[Any], *, background: str = "constant:0.43"
) -> NDArray[np.uint8]:
    """Label of the best of background and classes at each pixel.

    cam: (K, H, W) in [0, 1], rows of rising class. classes: (K,) contiguous, from 0. background:
    see ``background_score``. Returns uint8 (H, W): 0 background, class + 1. Background wins ties,
    then the lower class; without classes all is background. Raises ValueError for other shapes,
    classes that do not rise, values outside [0, 1], or another rule. wsss.md, Sec. 3.1.
    """
    ids = np.asarray(classes, dtype=np.int64)
    rising = ids.ndim == 1 and bool((np.diff(ids) > 0).all())
    if not rising or (len(ids) and not 0 <= ids[0] <= ids[-1] <= _MAX_CLASS):
        raise ValueError(f"classes must rise within 0 to {_MAX_CLASS}, got {ids.tolist()}")
    if cam.ndim != 3 or len(cam) != len(ids):
        raise ValueError(f"cam must be ({len(ids)}, H, W) for these classes, got {cam.shape}")
    if cam.size and not (cam.min() >= 0 and cam.max() <= 1):  # also NaN
        raise ValueError(f"cam holds {cam.min()} to {cam.max()}, expected values in [0, 1]")
    if not len(ids):
        _rule(background)
        return np.zeros(cam.shape[1:], np.uint8)
    labels = np.array([0, *(ids + 1)], np.uint8)
    best: NDArray[np.uint8] = labels[add_background(cam, background).argmax(axis=0)]
    return best


def ignore_uncertain(
    label: NDArray[np.uint8], confidence: Map, threshold: float, *, ignore: int = IGNORE
) -> NDArray[np.uint8]:
    """Labels whose confidence is below a threshold become ``ignore``.

    label: uint8 (H, W). confidence: (H, W), say the largest probability of a pixel. threshold 0
    changes nothing. Returns uint8 (H, W). Raises ValueError if the sizes differ. wsss.md, Sec. 3.5.
    """
    if label.shape != confidence.shape:
        raise ValueError(f"label is {label.shape}, its confidence {confidence.shape}")
    gated: NDArray[np.uint8] = np.where(confidence < threshold, ignore, label).astype(np.uint8)
    return gated


def paint_order(
    areas: Sequence[float] | NDArray[Any],
    labels: Sequence[int] | NDArray[Any],
    scores: Sequence[float] | NDArray[Any] | None = None,
) -> NDArray[np.int64]:
    """Order in which regions are painted so that smaller ones lie on top.

    By falling area; of equal areas the lower score first, then the higher label, then the earlier
    region. areas, labels, scores: (n,). Returns int64 (n,), rows. wsss.md, Sec. 5.1 and 7.5.
    """
    size = np.asarray(areas, dtype=np.float64)
    score = np.zeros_like(size) if scores is None else np.asarray(scores, dtype=np.float64)
    label = np.asarray(labels, dtype=np.int64)
    if not len(size) == len(score) == len(label):
        raise ValueError(f"{len(size)} areas, {len(label)} labels and {len(score)} scores")
    return np.lexsort((-label, score, -size)).astype(np.int64)


def paint_regions(
    size: tuple[int, int],
    regions: Sequence[NDArray[Any]],
    labels: Sequence[int] | NDArray[Any],
    order: Sequence[int] | NDArray[Any] | None = None,
    *,
    base: NDArray[np.uint8] | None = None,
) -> NDArray[np.uint8]:
    """Paint regions over each other; where none lies, ``base`` (None: background) stays.

    size: (height, width). regions: n masks (H, W), truthy inside. labels: (n,) label ids. order:
    rows in the order of painting, the last one on top; None: as given. Returns uint8 (H, W), a new
    array. Raises ValueError for other sizes, or labels that are not 8-bit.
    """
    if len(regions) != len(labels):
        raise ValueError(f"{len(regions)} regions and {len(labels)} labels, expected one for each")
    painted = np.zeros(size, np.uint8) if base is None else np.array(base, dtype=np.uint8)
    if painted.shape != tuple(size):
        raise ValueError(f"base is {painted.shape}, the image {tuple(size)}")
    for row in range(len(regions)) if order is None else order:
        region, label = np.asarray(regions[row]), int(labels[row])
        if region.shape != painted.shape:
            raise ValueError(f"region {row} is {region.shape}, the image {tuple(size)}")
        if not 0 <= label <= IGNORE:
            raise ValueError(f"label {label} of region {row} is not in 0 to {IGNORE}")
        painted[region.astype(bool)] = label
    return painted
