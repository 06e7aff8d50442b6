"""Seeds of online refinement: which proposals teach the next branch, and whom they teach."""

from fractions import Fraction
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.ops.boxes import pairwise_iou
from weaksam_d2.ops.nms import nms

__all__ = [
    "Assignment",
    "Seeds",
    "assign_to_seeds",
    "mist",
    "near_maximum",
    "refinement_norm",
    "top_scoring",
    "weighted_ce",
]

# Of one matrix of overlaps; more is done in pieces. On a CPU a piece stays in its cache.
_MAX_IOU_ENTRIES = 2**24
_MAX_CPU_IOU_ENTRIES = 2**17
_FIRST_RANKS = 24  # candidates of a class that settle most of the others
_MIN_WEIGHT = 1e-12  # a proposal of less weight does not count


class Seeds(NamedTuple):
    """Seeds of one image, by rising class, then by falling score."""

    boxes: Tensor
    """(S, 4) XYXY pixels."""
    classes: Tensor
    """int64 (S,)."""
    scores: Tensor
    """(S,), detached."""


class Assignment(NamedTuple):
    """What the seeds of an image say about its R proposals."""

    labels: Tensor
    """int64 (R,); the number of classes is background."""
    weights: Tensor
    """(R,), the score of the proposal's seed."""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs
    """int64 (R,), the proposal's seed; -1 without seeds."""


@torch.no_grad()
def top_scoring(boxes: Tensor, scores: Tensor, labels: Tensor, *, zero_row: bool = False) -> Seeds:
    """Take the best proposal of each class of the image.

    boxes: (R, 4). scores: (R, C). labels: int64 (m,), the image's classes. zero_row: a proposal
    that became a seed scores 0 for the later classes. Ties: lowest index. Returns m seeds (none if
    R is 0). OICR (Tang et al. 2017), Sec. 3.2.
    """
    classes, columns = _class_columns(boxes, scores, labels)
    if columns.numel() == 0:
        return _no_seeds(boxes, scores)
    if not zero_row:
        best = columns.argmax(dim=0)
        return Seeds(boxes[best], classes, columns.gather(0, best[None])[0])
    columns = columns.clone()
    rows, values = [], []
    for c in range(columns.shape[1]):
        row = columns[:, c].argmax()
        rows.append(row)
        values.append(columns[:, c].gather(0, row[None]))
        columns.index_fill_(0, row[None], 0)
    return Seeds(boxes[torch.stack(rows)], classes, torch.cat(values))


@torch.no_grad()
def near_maximum(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    fraction: float = 0.9,
    nms_thresh: float = 0.5,
    keep_one: bool = False,
) -> Seeds:
    """Take all proposals that score almost as well as the best, then suppress across classes.

    boxes: (R, 4). scores: (R, C). labels: int64 (m,). fraction: of the class's maximum that a seed
    needs. nms_thresh: IoU above which the seed with the lower score goes, whatever the classes.
    keep_one: put back the best seed of a class that lost all. Returns the seeds.
    WSOD2 (Zeng et al. 2019); what WeakSAM's released OICR does.
    """
    classes, columns = _class_columns(boxes, scores, labels)
    if columns.numel() == 0:
        return _no_seeds(boxes, scores)
    ranked, order = _ranked(columns)
    rank_class, rank = (ranked >= fraction * ranked[:, :1]).nonzero(as_tuple=True)
    rows = order[rank_class, rank]
    candidates = Seeds(boxes[rows], classes[rank_class], ranked[rank_class, rank])
    kept = torch.zeros_like(rank_class, dtype=torch.bool)
    kept[nms(candidates.boxes, candidates.scores, nms_thresh)] = True
    if keep_one:
        survives = torch.zeros_like(classes, dtype=torch.bool)
        survives[rank_class[kept]] = True
        kept |= (rank == 0) & ~survives[rank_class]
    return Seeds(*(field[kept] for field in candidates))


@torch.no_grad()
def mist(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    top_fraction: float = 0.15,
    iou_thresh: float = 0.2,
    suppress: str = "all_prior",
) -> Seeds:
    """Take several diverse proposals of each class, walking down the best ones.

    boxes: (R, 4). scores: (R, C). labels: int64 (m,). top_fraction: share of the proposals that
    are candidates of a class, at least one. iou_thresh: a candidate needs less IoU than this with
    ``suppress``: ``"all_prior"`` better candidates, or only with the ``"kept"`` ones. Classes do
    not interact. Returns the seeds. Raises ValueError for a bad option. MIST (Ren et al. 2020),
    Alg. 1; ``"all_prior"`` is what its released code does.
    """
    if suppress not in ("all_prior", "kept"):
        raise ValueError(f"suppress must be 'all_prior' or 'kept', got {suppress!r}")
    if not 0 < top_fraction <= 1:
        raise ValueError(f"top_fraction must be in (0, 1], got {top_fraction}")
    classes, columns = _class_columns(boxes, scores, labels)
    if columns.numel() == 0:
        return _no_seeds(boxes, scores)
    # A product of floats may fall just below the integer it should be.
    k = max(1, int(len(boxes) * Fraction(str(top_fraction))))
    ranked, order = _ranked(columns)
    top = boxes[order[:, :k]]  # (m, k, 4)
    if suppress == "all_prior":
        kept = _unlike_all_better(top, iou_thresh)
    else:
        kept = _unlike_kept(torch.tril(pairwise_iou(top, top) >= iou_thresh, diagonal=-1))
    kept_class, rank = kept.nonzero(as_tuple=True)
    return Seeds(top[kept_class, rank], classes[kept_class], ranked[kept_class, rank])


@torch.no_grad()
def assign_to_seeds(
    boxes: Tensor,
    seeds: Seeds,
    *,
    num_classes: int,
    fg_iou: float = 0.5,
    ignore_iou: float = 0.0,
    fg_strict: bool = False,
) -> Assignment:
    """Give each proposal the label and the score of the seed that it overlaps most.

    boxes: (R, 4). fg_iou: from this IoU on (``fg_strict``: above it) a proposal has its seed's
    class, below it is background (``num_classes``). ignore_iou: below this IoU the weight is 0.
    Ties: lowest seed. Without seeds all is background of weight 0. OICR, Sec. 3.2.
    """
    if len(seeds.boxes) == 0:
        labels = torch.full((len(boxes),), num_classes, dtype=torch.int64, device=boxes.device)
        weights = seeds.scores.new_zeros(len(boxes))
        return Assignment(labels, weights, torch.full_like(labels, -1))
    iou, index = _best_seed(boxes, seeds.boxes)
    background = torch.full_like(index, num_classes)
    foreground = iou > fg_iou if fg_strict else iou >= fg_iou
    labels = torch.where(foreground, seeds.classes[index], background)
    weights = seeds.scores[index]
    weights = torch.where(iou < ignore_iou, torch.zeros_like(weights), weights)
    return Assignment(labels, weights, index)


def weighted_ce(
    logits: Tensor,
    labels: Tensor,
    weights: Tensor,
    *,
    log_eps: float = 0.0,
    norm: str = "rois",
) -> Tensor:
    """Return the weighted cross entropy of refinement, over the number of proposals.

    logits: (R, C + 1). labels: int64 (R,). weights: (R,). log_eps: if positive, the cross entropy
    is -log(p + log_eps) of the label's probability p. norm: see :func:`refinement_norm`. Returns a
    float32 scalar, the sum of weight x cross entropy over the norm; 0 but attached to the graph if
    R is 0. OICR, Eq. 4.
    """
    if len(logits) == 0:
        return logits.float().sum() * 0
    if log_eps > 0:
        probabilities = logits.float().softmax(dim=1)
        loss = -(probabilities.gather(1, labels[:, None])[:, 0] + log_eps).log()
    else:
        loss = F.cross_entropy(logits.float(), labels, reduction="none")
    return (loss * weights.detach().float()).sum() / refinement_norm(weights, norm)


def refinement_norm(weights: Tensor, norm: str) -> Tensor | int:
    """Return what the loss of a branch is divided by, at least 1.

    weights: (R,). norm: ``"rois"`` is R; ``"weights"`` is how many weights are not zero (DRN-WSOD;
    there 0/0 without any). Raises ValueError for another norm.
    """
    if norm == "rois":
        return max(1, len(weights))
    if norm == "weights":
        return (weights > _MIN_WEIGHT).sum().clamp(min=1)
    raise ValueError(f"norm must be 'rois' or 'weights', got {norm!r}")


def _class_columns(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The image's (distinct) classes, rising, and their score columns (R, m)."""
    if scores.ndim != 2 or len(scores) != len(boxes):
        shapes = tuple(scores.shape), tuple(boxes.shape)
        raise ValueError(f"scores must be (R, C) for boxes (R, 4), got {shapes[0]} and {shapes[1]}")
    classes = labels.to(scores.device).sort().values
    return classes, scores[:, classes]


def _ranked(columns: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (m, R) of each class, falling, and the proposals in that order; ties: lowest first."""
    ranked, order = columns.t().contiguous().sort(dim=1, descending=True, stable=True)
    return ranked, order


def _no_seeds(boxes: Tensor, scores: Tensor) -> Seeds:
    classes = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    return Seeds(boxes[:0], classes, scores.new_zeros(0))


def _unlike_all_better(top: Tensor, iou_thresh: float) -> Tensor:
    """Bool (m, k): which of the ranked boxes (m, k, 4) overlap no better one of their class."""
    first = min(_FIRST_RANKS, top.shape[1])
    overlaps = pairwise_iou(top[:, :first], top) >= iou_thresh  # the better one comes first
    kept = ~torch.triu(overlaps, diagonal=1).any(dim=1)
    if first == top.shape[1]:
        return kept
    # The few that the first ranks leave over are compared with all the others.
    classes, ranks = kept[:, first:].nonzero(as_tuple=True)
    ranks = ranks + first
    better = torch.arange(top.shape[1], device=top.device)
    step = max(1, _max_entries(top) // top.shape[1])
    alone = [
        ~((pairwise_iou(top[c, r, None], top[c])[:, 0] >= iou_thresh) & (better < r[:, None])).any(
            1
        )
        for c, r in zip(torch.split(classes, step), torch.split(ranks, step), strict=True)
    ]
    kept[classes, ranks] = torch.cat(alone)
    return kept


def _max_entries(boxes: Tensor) -> int:
    return _MAX_IOU_ENTRIES if boxes.is_cuda else min(_MAX_CPU_IOU_ENTRIES, _MAX_IOU_ENTRIES)


def _unlike_kept(overlaps: Tensor) -> Tensor:
    """Greedy choice from bool (m, k, k), in which [c, j, i] says that j overlaps the better i."""
    table = overlaps.cpu().numpy()  # one copy instead of one for each seed
    alive = np.ones(table.shape[:2], dtype=np.bool_)
    kept = np.zeros_like(alive)
    while alive.any():  # one round for each kept seed of the class that keeps most
        row = np.flatnonzero(alive.any(axis=1))
        best = alive[row].argmax(axis=1)
        kept[row, best] = True
        alive[row] &= ~table[row, :, best]
        alive[row, best] = False
    return torch.from_numpy(kept).to(overlaps.device)


def _best_seed(boxes: Tensor, seed_boxes: Tensor) -> tuple[Tensor, Tensor]:
    step = max(1, _max_entries(boxes) // len(seed_boxes))
    parts = [pairwise_iou(part, seed_boxes).max(dim=1) for part in torch.split(boxes, step)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])
