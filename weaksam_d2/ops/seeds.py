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
    "top_scoring",
    "weighted_ce",
]

_MAX_IOU_ENTRIES = 2**24  # of one proposals x seeds matrix; more is done in pieces


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
    ranked, order = columns.sort(dim=0, descending=True, stable=True)
    rank_class, rank = (ranked >= fraction * ranked[:1]).t().nonzero(as_tuple=True)
    rows = order[rank, rank_class]
    candidates = Seeds(boxes[rows], classes[rank_class], ranked[rank, rank_class])
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
    ranked, order = columns.sort(dim=0, descending=True, stable=True)
    ranked, order = ranked[:k].t(), order[:k].t()  # (m, k)
    top = boxes[order]
    overlaps = torch.tril(pairwise_iou(top, top) >= iou_thresh, diagonal=-1)
    kept = ~overlaps.any(dim=2) if suppress == "all_prior" else _keep_unlike_kept(overlaps)
    kept_class, _ = kept.nonzero(as_tuple=True)
    return Seeds(top[kept], classes[kept_class], ranked[kept])


@torch.no_grad()
def assign_to_seeds(
    boxes: Tensor, seeds: Seeds, *, num_classes: int, fg_iou: float = 0.5, ignore_iou: float = 0.0
) -> Assignment:
    """Give each proposal the label and the score of the seed that it overlaps most.

    boxes: (R, 4). fg_iou: from this IoU on a proposal has its seed's class, below it is background
    (``num_classes``). ignore_iou: below this IoU the weight is 0. Ties: lowest seed. Without seeds
    all is background of weight 0. OICR, Sec. 3.2.
    """
    if len(seeds.boxes) == 0:
        labels = torch.full((len(boxes),), num_classes, dtype=torch.int64, device=boxes.device)
        weights = seeds.scores.new_zeros(len(boxes))
        return Assignment(labels, weights, torch.full_like(labels, -1))
    iou, index = _best_seed(boxes, seeds.boxes)
    background = torch.full_like(index, num_classes)
    labels = torch.where(iou >= fg_iou, seeds.classes[index], background)
    weights = seeds.scores[index]
    weights = torch.where(iou < ignore_iou, torch.zeros_like(weights), weights)
    return Assignment(labels, weights, index)


def weighted_ce(logits: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted cross entropy of refinement, over the number of proposals.

    logits: (R, C + 1). labels: int64 (R,). weights: (R,). Returns a float32 scalar, the sum of
    weight x cross entropy over R; 0 but attached to the graph if R is 0. OICR, Eq. 4.
    """
    if len(logits) == 0:
        return logits.float().sum() * 0
    loss = F.cross_entropy(logits.float(), labels, reduction="none")
    return (loss * weights.detach().float()).sum() / len(logits)


def _class_columns(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The image's classes, rising, and their score columns (R, m)."""
    if scores.ndim != 2 or len(scores) != len(boxes):
        shapes = tuple(scores.shape), tuple(boxes.shape)
        raise ValueError(f"scores must be (R, C) for boxes (R, 4), got {shapes[0]} and {shapes[1]}")
    classes = torch.unique(labels.to(scores.device))
    return classes, scores[:, classes]


def _no_seeds(boxes: Tensor, scores: Tensor) -> Seeds:
    classes = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    return Seeds(boxes[:0], classes, scores.new_zeros(0))


def _keep_unlike_kept(overlaps: Tensor) -> Tensor:
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
    step = max(1, _MAX_IOU_ENTRIES // len(seed_boxes))
    parts = [pairwise_iou(part, seed_boxes).max(dim=1) for part in torch.split(boxes, step)]
    return torch.cat([p.values for p in parts]), torch.cat([p.indices for p in parts])
