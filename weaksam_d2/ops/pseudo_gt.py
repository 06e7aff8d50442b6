"""Which detections of one image become pseudo ground truth."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from weaksam_d2.ops.boxes import pairwise_iof

__all__ = ["Selection", "select_adaptive", "select_top1"]

_NORMS = ("minmax", "release")
_CONTAINS = ("area", "score", "literal")
_FLAT = 1e-12  # a spread of scores below this counts as none


class Selection(NamedTuple):
    """Chosen detections, by rising class, then by falling score."""

    index: NDArray[np.int64]  # type: ignore[assignment]  # hides tuple.index
    """(M,), rows of the given detections."""
    score_norm: NDArray[np.float32]
    """(M,), the normalized score."""


def select_adaptive(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    image_labels: Sequence[int] | NDArray[np.integer[Any]],
    *,
    score_thresh: float = 0.3,
    containment_thresh: float = 0.85,
    norm: str = "minmax",
    contain: str = "area",
    max_per_class: int = 0,
) -> Selection:
    """Choose a varying number of boxes of each class: good scores, not parts of a bigger box.

    boxes: (N, 4) XYXY pixels. scores: (N,). classes: (N,). image_labels: the image's classes;
    detections of others and degenerate boxes are left out first. score_thresh: least normalized
    score; ``norm`` is ``"minmax"`` over the class in this image or ``"release"`` (score over the
    spread). containment_thresh: a box goes if this share of it lies inside a kept one that is at
    least as large (``contain="area"``), a kept one of higher score (``"score"``), or any other
    (``"literal"``, which may lose a class). max_per_class: best scores only; 0: all.
    Raises ValueError for bad shapes or options. WeakSAM, Sec. 3.3, Alg. 2.
    """
    if norm not in _NORMS:
        raise ValueError(f"norm must be one of {_NORMS}, got {norm!r}")
    if contain not in _CONTAINS:
        raise ValueError(f"contain must be one of {_CONTAINS}, got {contain!r}")
    box, score, cls = _checked(boxes, scores, classes)
    chosen: list[NDArray[np.int64]] = []
    norms: list[NDArray[np.float64]] = []
    for rows in _ranked_rows(box, score, cls, image_labels):
        scaled = _normalize_scores(score[rows], norm)
        good = scaled >= score_thresh
        rows, scaled = rows[good], scaled[good]
        kept = _uncontained(box[rows], containment_thresh, contain)
        kept = kept[:max_per_class] if max_per_class > 0 else kept
        chosen.append(rows[kept])
        norms.append(scaled[kept])
    return _selection(chosen, norms)


def select_top1(
    boxes: ArrayLike,
    scores: ArrayLike,
    classes: ArrayLike,
    image_labels: Sequence[int] | NDArray[np.integer[Any]],
) -> Selection:
    """Choose the best detection of each class of the image, if its score is above 0.

    Arguments as for ``select_adaptive``; ties: lowest index. The normalized score is 1.
    WeakSAM, Table 5 (Top-1).
    """
    box, score, cls = _checked(boxes, scores, classes)
    ranked = _ranked_rows(box, score, cls, image_labels)
    chosen = [rows[:1] for rows in ranked if score[rows[0]] > 0]
    return _selection(chosen, [np.ones(1)] * len(chosen))


def _checked(
    boxes: ArrayLike, scores: ArrayLike, classes: ArrayLike
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    score = np.asarray(scores, dtype=np.float64)
    box = np.asarray(boxes, dtype=np.float64)
    cls = np.asarray(classes, dtype=np.int64)
    if box.size == 0 and score.size == 0:
        box = box.reshape(0, 4)
    if score.ndim != 1 or box.shape != (len(score), 4) or cls.shape != score.shape:
        raise ValueError(
            "boxes, scores and classes must have shapes (N, 4), (N,) and (N,), "
            f"got {box.shape}, {score.shape} and {cls.shape}"
        )
    return box, score, cls


def _ranked_rows(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    image_labels: Sequence[int] | NDArray[np.integer[Any]],
) -> Iterator[NDArray[np.int64]]:
    """Usable detections of each class of the image that has any, by falling score."""
    usable = np.isfinite(boxes).all(axis=1) & np.isfinite(scores)
    usable &= (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    for label in np.unique(np.asarray(image_labels, dtype=np.int64)):
        rows = np.flatnonzero(usable & (classes == label))
        if len(rows):
            yield rows[np.argsort(-scores[rows], kind="stable")]


def _normalize_scores(scores: NDArray[np.float64], norm: str) -> NDArray[np.float64]:
    spread = float(scores.max() - scores.min())
    if norm == "release":
        return scores / (spread + 1e-8)
    # NOTE: the paper's formula is 0/0 for one detection and would lose its class.
    if spread <= _FLAT:
        return np.ones_like(scores)
    scaled: NDArray[np.float64] = (scores - scores.min()) / spread
    return scaled


def _uncontained(boxes: NDArray[np.float64], thresh: float, contain: str) -> NDArray[np.int64]:
    """Rows, rising, of boxes (given by falling score) that no rival contains."""
    inside = _iof(boxes) >= thresh  # [j, k]: j lies inside k
    np.fill_diagonal(inside, False)
    if contain == "literal":
        return np.flatnonzero(~inside.any(axis=1))
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    order = np.argsort(-area, kind="stable") if contain == "area" else np.arange(len(boxes))
    kept = np.zeros(len(boxes), dtype=np.bool_)
    for j in order:
        kept[j] = not (inside[j] & kept).any()
    return np.flatnonzero(kept)


def _iof(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    tensor = torch.from_numpy(boxes)
    share: NDArray[np.float64] = pairwise_iof(tensor, tensor).numpy()
    return share


def _selection(
    chosen: Sequence[NDArray[np.int64]], norms: Sequence[NDArray[np.float64]]
) -> Selection:
    index = np.concatenate([np.zeros(0, np.int64), *chosen])
    score_norm = np.concatenate([np.zeros(0), *norms])
    return Selection(index.astype(np.int64), score_norm.astype(np.float32))
