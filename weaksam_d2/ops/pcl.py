"""Proposal clusters: which proposals are the centers of a class, and the loss of their clusters."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from weaksam_d2.ops.boxes import pairwise_iou
from weaksam_d2.ops.seeds import Assignment, Seeds, refinement_norm

__all__ = ["cluster_loss", "graph_centers", "top_cluster"]

_MAX_ROUNDS = 100  # of k-means; on a line it settles long before
_FEW_NODES = 5  # so many are left over when a graph is used up


@torch.no_grad()
def top_cluster(scores: Tensor, *, clusters: int = 3) -> Tensor:
    """Tell which proposals are in the best of k clusters of a class's scores.

    scores: (R, m), R >= 1; each column is clustered by itself: k-means from centers spread evenly
    from its minimum to its maximum, so that equal scores give equal clusters; halfway between two
    centers counts as the upper one. Returns bool (R, m), at least the maximum of each column.
    Raises ValueError if clusters is below 1. PCL (Tang et al. 2018), Sec. 3.3; weaksam.md, 5.4.
    """
    if clusters < 1:
        raise ValueError(f"clusters must be at least 1, got {clusters}")
    ranked = scores.t().double().sort(dim=1).values.contiguous()  # (m, R), rising
    sums = torch.nn.functional.pad(ranked.cumsum(dim=1), (1, 0))
    share = torch.linspace(0, 1, clusters, dtype=torch.float64, device=scores.device)
    share = share if clusters > 1 else torch.ones_like(share)
    centers = torch.lerp(ranked[:, :1], ranked[:, -1:], share)
    limits = _limits(ranked, centers)
    for _ in range(_MAX_ROUNDS):
        counts, totals = limits.diff(dim=1), sums.gather(1, limits).diff(dim=1)
        centers = torch.where(counts > 0, totals / counts.clamp(min=1), centers)
        before, limits = limits, _limits(ranked, centers)
        if torch.equal(before, limits):
            break
    lowest = ranked.gather(1, limits[:, -2:-1])  # of the top cluster
    return scores.double() >= lowest.t()


@torch.no_grad()
def graph_centers(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    clusters: int = 3,
    edge_iou: float = 0.4,
    max_centers: int = 5,
) -> Seeds:
    """Take the centers of the clusters that a class's best proposals form in the image.

    boxes: (R, 4). scores: (R, C). labels: int64 (m,), the image's classes. The proposals of the
    top score cluster are nodes; nodes above ``edge_iou`` are neighbors. The node with most
    neighbors (ties: best score, then lowest proposal) becomes a center that scores the maximum of
    itself and its neighbors, and all of them leave, until at most 5 are left over. The
    ``max_centers`` best are kept (ties: the earlier). Classes do not interact. Returns the
    centers. PCL, Alg. 2.
    """
    classes = labels.to(scores.device).sort().values
    if len(classes) == 0 or len(boxes) == 0:
        return Seeds(boxes[:0], classes[:0], scores.new_zeros(0))
    columns = scores[:, classes]
    nodes = top_cluster(columns, clusters=clusters)
    used = nodes.any(dim=1).nonzero()[:, 0]  # all that follows looks at these proposals only
    near = (pairwise_iou(boxes[used], boxes[used]) > edge_iou).fill_diagonal_(True).cpu().numpy()
    found = _greedy_centers(
        near, nodes[used].t().cpu().numpy(), columns[used].t().float().cpu().numpy()
    )
    picked = _best_of_each_class(*found, count=max_centers)
    which, node, score = (torch.from_numpy(x).to(boxes.device) for x in picked)
    return Seeds(boxes[used[node]], classes[which], score.to(scores.dtype))


def cluster_loss(
    logits: Tensor,
    assignment: Assignment,
    num_seeds: int,
    *,
    log_eps: float = 1e-6,
    norm: str = "rois",
) -> Tensor:
    """Return the loss of proposal clusters, over the number of proposals.

    logits: (R, C + 1), background last. assignment: of the R proposals to ``num_seeds`` centers; a
    foreground proposal is a member of its center's cluster. A cluster contributes minus the sum of
    its weights times log(mean probability of its class over its members + log_eps), a background
    proposal its weight times -log(p + log_eps). norm: as for ``weighted_ce``. Returns a float32
    scalar; 0 but attached to the graph if R is 0. PCL, Eq. 9.
    """
    if len(logits) == 0:
        return logits.float().sum() * 0
    labels, weights = assignment.labels, assignment.weights.detach().float()
    probability = logits.float().softmax(dim=1).gather(1, labels[:, None])[:, 0]
    member = (labels < logits.shape[1] - 1) & (weights > 0)
    # Proposals outside of all clusters are gathered in one more row, which is then left out.
    row = torch.where(member, assignment.index, torch.full_like(labels, num_seeds))
    empty = logits.new_zeros(num_seeds + 1, dtype=torch.float32)
    count = empty.index_add(0, row, torch.ones_like(weights))
    weight = empty.index_add(0, row, weights)[:num_seeds]
    mean = (empty.index_add(0, row, probability) / count.clamp(min=1))[:num_seeds]
    filled = weight > 0
    cluster = torch.where(filled, -weight * _log(mean.where(filled, 1.0), log_eps), 0.0).sum()
    background = torch.where(member, 0.0, -weights * _log(probability, log_eps)).sum()
    return (cluster + background) / refinement_norm(weights, norm)


def _log(probability: Tensor, eps: float) -> Tensor:
    return (probability + eps).clamp(min=torch.finfo(torch.float32).tiny).log()


def _limits(ranked: Tensor, centers: Tensor) -> Tensor:
    """Where each cluster starts in the rising scores (m, R), and their end: int64 (m, k + 1)."""
    middles = (centers[:, 1:] + centers[:, :-1]) / 2
    start = torch.searchsorted(ranked, middles.contiguous())
    start = start.clamp(max=ranked.shape[1] - 1)  # rounding: the maximum stays in the top cluster
    return torch.nn.functional.pad(
        torch.nn.functional.pad(start, (1, 0)), (0, 1), value=ranked.shape[1]
    )


def _greedy_centers(
    near: NDArray[np.bool_], alive: NDArray[np.bool_], scores: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    """Class row, node and score of each center, by round.

    near: (n, n). alive, scores: (m, n). One round takes a center of every class that has nodes.
    """
    edges = near.astype(np.float32)
    alive = alive.copy()
    degree = alive.astype(np.float32) @ edges  # (m, n), the node itself counts
    rows = np.arange(len(alive))
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]] = []
    while len(rows):
        count = np.where(alive[rows], degree[rows], -1.0)
        most = count == count.max(axis=1, keepdims=True)
        best = np.where(most, scores[rows], -np.inf).argmax(axis=1)
        leaving = near[best] & alive[rows]
        score = np.where(leaving, scores[rows], -np.inf).max(axis=1)
        found.append((rows, best, score))
        alive[rows] &= ~leaving
        degree[rows] -= leaving.astype(np.float32) @ edges
        rows = rows[alive[rows].sum(axis=1) > _FEW_NODES]
    which, node, values = (np.concatenate(part) for part in zip(*found, strict=True))
    return which.astype(np.int64), node.astype(np.int64), values.astype(np.float32)


def _best_of_each_class(
    which: NDArray[np.int64],
    node: NDArray[np.int64],
    score: NDArray[np.float32],
    *,
    count: int,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
    order = np.lexsort((-score, which))  # stable: equal scores stay in their order
    which, node, score = which[order], node[order], score[order]
    starts = np.searchsorted(which, which)  # where the class of each row begins
    keep = np.arange(len(which)) - starts < count
    return which[keep], node[keep], score[keep]
