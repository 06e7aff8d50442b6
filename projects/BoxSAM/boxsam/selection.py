"""Which tags follow from the scores of the classes."""

import numpy as np

__all__ = ["SELECTIONS", "select_per_class", "select_per_image"]

SELECTIONS = ("per_image", "per_class_topn")


def select_per_image(scores: np.ndarray, *, top_n: int, rel_threshold: float) -> list[int]:
    """Return the classes of one image, rising: at most ``top_n``, at least the best one.

    scores: float (C,), probabilities. A class needs ``rel_threshold`` of the best one's score.
    Equal scores: the lower class comes first. Source: wsss.md, Sec. 7.2.
    """
    if scores.ndim != 1 or not len(scores) or top_n < 1:
        raise ValueError(f"expected scores (C,) and top_n >= 1, got {scores.shape} and {top_n}")
    order = np.argsort(-scores, kind="stable")[:top_n]
    enough = scores[order] >= rel_threshold * scores.max()
    enough[0] = True
    return sorted(order[enough].tolist())


def select_per_class(scores: np.ndarray, *, top_n: int) -> list[list[int]]:
    """Return the classes of each image of a set, rising: those that have it among their best.

    scores: float (I, C). Every class takes the ``top_n`` images that it scores highest in (equal
    scores: the earlier image). An image may get no class. Source: wsss.md, Sec. 7.2.
    """
    if scores.ndim != 2 or top_n < 1:
        raise ValueError(f"expected scores (I, C) and top_n >= 1, got {scores.shape} and {top_n}")
    taken = np.zeros(scores.shape, bool)
    best = np.argsort(-scores, axis=0, kind="stable")[:top_n]
    np.put_along_axis(taken, best, True, axis=0)
    return [np.flatnonzero(row).tolist() for row in taken]
