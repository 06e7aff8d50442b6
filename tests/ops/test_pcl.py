"""Tests of weaksam_d2.ops.pcl."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.ops import (
    Assignment,
    assign_to_seeds,
    cluster_loss,
    graph_centers,
    pairwise_iou,
    top_cluster,
)

FAR = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])


def random_case(n: int, c: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 30, (n, 2), generator=generator)
    side = torch.randint(5, 30, (n, 2), generator=generator)
    scores = torch.randint(0, 40, (n, c), generator=generator) / 40
    return torch.cat([low, low + side], 1).float(), scores


def slow_top_cluster(scores: list[float], k: int) -> list[bool]:
    """Plain k-means on a line, centers spread evenly, one score at a time."""
    low, high = min(scores), max(scores)
    centers = [low + (high - low) * i / (k - 1) for i in range(k)]
    for _ in range(100):
        # Of two equally near centers the upper one; the last search makes no difference.
        owner = [
            max(range(k), key=lambda c, s=s: (-round(abs(s - centers[c]), 12), c)) for s in scores
        ]
        for c in range(k):
            members = [s for s, o in zip(scores, owner, strict=True) if o == c]
            if members:
                centers[c] = sum(members) / len(members)
    return [o == k - 1 for o in owner]


def slow_centers(
    boxes: torch.Tensor, scores: torch.Tensor, classes: list[int]
) -> list[tuple[int, int, float]]:
    iou, seeds = pairwise_iou(boxes, boxes), []
    for c in sorted(classes):
        column = scores[:, c].tolist()
        nodes = [r for r, top in enumerate(slow_top_cluster(column, 3)) if top]
        found = []
        while True:
            near = {r: [q for q in nodes if iou[r, q] > 0.4 or q == r] for r in nodes}
            best = max(nodes, key=lambda r, near=near, column=column: (len(near[r]), column[r], -r))
            found.append((best, max(column[q] for q in near[best])))
            nodes = [r for r in nodes if r not in near[best]]
            if len(nodes) <= 5:
                break
        found.sort(key=lambda f: -f[1])
        seeds += [(c, r, s) for r, s in found[:5]]
    return seeds


def test_the_best_of_three_score_clusters() -> None:
    scores = torch.tensor([[0.0, 5.0], [0.1, 5.0], [0.5, 5.0], [0.9, 5.0], [1.0, 5.0]])
    found = top_cluster(scores)
    assert found[:, 0].tolist() == [False, False, False, True, True]
    assert found[:, 1].all()  # equal scores are one cluster
    assert top_cluster(scores, clusters=1).all()
    with pytest.raises(ValueError, match="got 0"):
        top_cluster(scores, clusters=0)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=25), st.integers(2, 4))
def test_clusters_equal_plain_k_means(values: list[int], k: int) -> None:
    scores = [v / 8 for v in values]  # exact in float32
    found = top_cluster(torch.tensor(scores)[:, None], clusters=k)[:, 0].tolist()
    if len(set(scores)) > 1:
        assert found == slow_top_cluster(scores, k)
    assert found[max(range(len(scores)), key=scores.__getitem__)]


@pytest.mark.parametrize("seed", range(6))
def test_centers_equal_the_slow_graph(seed: int) -> None:
    boxes, scores = random_case(40, 4, seed)
    seeds = graph_centers(boxes, scores, torch.tensor([3, 0, 1]))
    expected = slow_centers(boxes, scores, [0, 1, 3])
    assert seeds.classes.tolist() == [c for c, _, _ in expected]
    assert seeds.boxes.tolist() == [boxes[r].tolist() for _, r, _ in expected]
    assert seeds.scores.tolist() == pytest.approx([s for _, _, s in expected])


def test_the_node_with_most_neighbors_is_the_center_and_scores_their_best() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10], [50, 50, 60, 60]])
    scores = torch.tensor([[0.8], [0.7], [0.9], [0.0]])
    seeds = graph_centers(boxes, scores, torch.tensor([0]))
    assert seeds.boxes.tolist() == [boxes[1].tolist()]  # IoU 7/13 with both sides
    assert seeds.scores.tolist() == pytest.approx([0.9])
    assert not graph_centers(boxes, scores, torch.tensor([0]), max_centers=1).scores.requires_grad


def test_at_most_five_centers_of_a_class() -> None:
    x = torch.arange(12) * 20.0
    boxes = torch.stack([x, x * 0, x + 10, x * 0 + 10], 1)
    scores = torch.linspace(0.9, 1.0, 12)[:, None]
    assert len(graph_centers(boxes, scores, torch.tensor([0]), clusters=1).boxes) == 5
    # Twelve unconnected nodes: seven are taken before five or fewer are left over.
    every = graph_centers(boxes, scores, torch.tensor([0]), clusters=1, max_centers=99)
    assert len(every.boxes) == 7


def test_no_labels_or_proposals_give_no_centers() -> None:
    nothing = torch.zeros(0, dtype=torch.int64)
    for seeds in (
        graph_centers(FAR, torch.rand(3, 2), nothing),
        graph_centers(torch.zeros(0, 4), torch.zeros(0, 2), torch.tensor([0])),
    ):
        assert [tuple(field.shape) for field in seeds] == [(0, 4), (0,), (0,)]


def test_a_cluster_learns_by_its_mean_probability() -> None:
    """Two members of class 0 (p .8 and .4), one background (p .5) and one that is ignored."""
    probability = torch.tensor(
        [[0.8, 0.1, 0.1], [0.4, 0.3, 0.3], [0.25, 0.25, 0.5], [0.2, 0.2, 0.6]]
    )
    labels = torch.tensor([0, 0, 2, 2])
    weights = torch.tensor([0.5, 0.5, 0.5, 0.0])
    assignment = Assignment(labels, weights, torch.zeros(4, dtype=torch.int64))
    loss = cluster_loss(probability.log(), assignment, 1, log_eps=0.0)
    expected = -(1.0 * math.log(0.6) + 0.5 * math.log(0.5)) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    by_weights = cluster_loss(probability.log(), assignment, 1, log_eps=0.0, norm="weights")
    assert by_weights.item() == pytest.approx(expected * 4 / 3, rel=1e-5)


def test_the_cluster_loss_equals_a_loop_over_clusters() -> None:
    boxes, scores = random_case(50, 3, 11)
    seeds = graph_centers(boxes, scores, torch.tensor([0, 2]))
    assignment = assign_to_seeds(boxes, seeds, num_classes=3, ignore_iou=0.1)
    logits = torch.randn(50, 4, generator=torch.Generator().manual_seed(0), requires_grad=True)
    p, total = logits.softmax(1), torch.zeros(())
    for s, c in enumerate(seeds.classes.tolist()):
        members = (assignment.index == s) & (assignment.labels == c)
        if members.any():
            total = total - assignment.weights[members].sum() * (p[members, c].mean() + 1e-6).log()
    rest = assignment.labels == 3
    total = total - (assignment.weights[rest] * (p[rest, 3] + 1e-6).log()).sum()
    loss = cluster_loss(logits, assignment, len(seeds.boxes))
    torch.testing.assert_close(loss, total / 50)
    (mine,) = torch.autograd.grad(loss, logits, retain_graph=True)
    (theirs,) = torch.autograd.grad(total / 50, logits)
    torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("count", [0, 3])
def test_without_centers_or_proposals_the_loss_is_zero_with_a_graph(count: int) -> None:
    logits = torch.randn(count, 3, requires_grad=True)
    none = graph_centers(FAR[:count], torch.rand(count, 2), torch.zeros(0, dtype=torch.int64))
    loss = cluster_loss(logits, assign_to_seeds(FAR[:count], none, num_classes=2), 0)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None and not logits.grad.any()


def test_permuting_proposals_permutes_the_centers() -> None:
    boxes, _ = random_case(30, 1, 3)
    scores = torch.rand(30, 2, generator=torch.Generator().manual_seed(4))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(5))
    a = graph_centers(boxes, scores, torch.tensor([0, 1]))
    b = graph_centers(boxes[order], scores[order], torch.tensor([0, 1]))
    assert a.classes.tolist() == b.classes.tolist()
    torch.testing.assert_close(a.scores, b.scores)
