"""Detections of several detectors made one list, in groups (a class of an image) as ``groups``."""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from weaksam_d2.ops.boxes import pairwise_iou
from weaksam_d2.ops.groups import keep_in_groups, padded_blocks, sort_in_groups

__all__ = ["Fused", "fuse_nms", "fuse_weighted"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


class Fused(NamedTuple):
    """Fused detections, by rising group; in a group by the score of the first member."""

    boxes: Floats
    """(M, 4) XYXY."""
    scores: Floats
    """(M,)."""
    groups: Ints
    """(M,)."""


class _Fusing(NamedTuple):
    """Fused boxes so far, of B groups with room for n each; all change in place."""

    boxes: Floats  # (B, n, 4)
    weighted: Floats  # (B, n, 4), sum of score times box
    total: Floats  # (B, n), sum of scores
    members: Ints  # (B, n); 0: not begun
    begun: Ints  # (B,), how many there are


def fuse_nms(boxes: Floats, scores: Floats, groups: Ints, *, iou: float) -> Fused:
    """Keep the detections that overlap no better one of their group, whichever detector made it.

    boxes: (N, 4) XYXY, finite, with an area. scores: (N,), finite. groups: (N,). iou: a box goes
    if its IoU with a kept one is above it; ties: lowest row.
    """
    order = sort_in_groups(groups, scores)
    box, group = np.asarray(boxes, np.float64)[order], groups[order]
    kept = keep_in_groups(box, group, lambda pair: pairwise_iou(pair, pair) > iou)
    return Fused(box[kept], scores[order][kept], group[kept])


def fuse_weighted(
    boxes: Floats, scores: Floats, groups: Ints, *, detectors: int, iou: float
) -> Fused:
    """Average the detections that overlap, weighted by their scores (weighted box fusion).

    By falling score each box of a group joins the fused box of largest IoU if that is above
    ``iou``, else it starts one. Coordinates are the mean of the members, weighted by score; the
    score is the members' mean, times the share of ``detectors`` that they could come from:
    min(members, detectors) / detectors. Ties: lowest row, and the fused box that was begun first.

    boxes: (N, 4) XYXY, finite, with an area. scores: (N,), finite, not negative. groups: (N,).
    Raises ValueError for a negative score or no detector. Solovyev et al. 2021; extras.md, Sec. 4.
    """
    if detectors < 1:
        raise ValueError(f"detectors must be at least 1, got {detectors}")
    if (scores < 0).any():
        raise ValueError(
            f"weighted fusion needs scores of at least 0, got {scores.min()}: use another fusion"
        )
    order = sort_in_groups(groups, scores)
    box, score, group = np.asarray(boxes, np.float64)[order], scores[order], groups[order]
    parts = [Fused(np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64))]
    for rows, real in padded_blocks(group):
        fused = _fuse_block(box[rows], score[rows], real, iou)
        parts.append(_finished(fused, group[rows[:, 0]], detectors))
    joined = [np.concatenate(fields) for fields in zip(*parts, strict=True)]
    by_group = np.argsort(joined[2], kind="stable")
    return Fused(*(field[by_group] for field in joined))


def _fuse_block(boxes: Floats, scores: Floats, real: Flags, iou: float) -> _Fusing:
    """Boxes (B, n, 4), scores and real (B, n) of B groups by falling score."""
    state = _Fusing(
        np.zeros_like(boxes),
        np.zeros_like(boxes),
        np.zeros_like(scores),
        np.zeros(scores.shape, np.int64),
        np.zeros(len(boxes), np.int64),
    )
    for place in range(boxes.shape[1]):
        here = np.flatnonzero(real[:, place])
        _join(state, here, boxes[here, place], scores[here, place], iou)
    return state


def _join(state: _Fusing, here: Ints, boxes: Floats, scores: Floats, iou: float) -> None:
    """Put one box into each of the groups ``here``."""
    most = int(state.begun[here].max(initial=0))
    target = state.begun[here].copy()
    if most:
        fused = torch.from_numpy(state.boxes[here, :most])
        overlap = pairwise_iou(torch.from_numpy(boxes)[:, None], fused)[:, 0].numpy()
        overlap[state.members[here, :most] == 0] = -1.0
        best = overlap.argmax(axis=1)
        joins = overlap[np.arange(len(here)), best] > iou
        target[joins] = best[joins]
    state.begun[here] = np.maximum(state.begun[here], target + 1)
    state.members[here, target] += 1
    state.total[here, target] += scores
    state.weighted[here, target] += scores[:, None] * boxes
    weight = state.total[here, target][:, None]
    first = state.members[here, target] == 1
    # A fused box of scores 0 stays where its first member is.
    mean = np.divide(
        state.weighted[here, target], weight, out=state.boxes[here, target], where=weight > 0
    )
    state.boxes[here, target] = np.where(first[:, None], boxes, mean)


def _finished(state: _Fusing, groups: Ints, detectors: int) -> Fused:
    group, place = np.nonzero(state.members)
    members = state.members[group, place]
    mean = state.total[group, place] / members
    scores = mean * np.minimum(members, detectors) / detectors
    return Fused(state.boxes[group, place], scores, groups[group])
