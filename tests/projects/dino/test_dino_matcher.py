"""The cost of a pair by hand, and the cheapest assignment by trying all of them."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from weaksam_d2.projects.dino.matcher import UNMATCHED, CostWeights, match, matching_cost
from weaksam_d2.projects.dino.outputs import ImageTargets

WEIGHTS = CostWeights()


def slow_giou(a: list[float], b: list[float]) -> float:
    ax1, ay1, ax2, ay2 = a[0] - a[2] / 2, a[1] - a[3] / 2, a[0] + a[2] / 2, a[1] + a[3] / 2
    bx1, by1, bx2, by2 = b[0] - b[2] / 2, b[1] - b[3] / 2, b[0] + b[2] / 2, b[1] + b[3] / 2
    inter = max(0, min(ax2, bx2) - max(ax1, bx1)) * max(0, min(ay2, by2) - max(ay1, by1))
    union = a[2] * a[3] + b[2] * b[3] - inter
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return inter / union - (hull - union) / hull


def slow_cost(logit: float, box: list[float], true: list[float]) -> float:
    p = 1 / (1 + math.exp(-logit))
    focal = 0.25 * (1 - p) ** 2 * -math.log(p) - 0.75 * p**2 * -math.log(1 - p)
    distance = sum(abs(a - b) for a, b in zip(box, true, strict=True))
    return 2 * focal + 5 * distance - 2 * slow_giou(box, true)


def random_image(queries: int, count: int, seed: int) -> tuple[Tensor, Tensor, ImageTargets]:
    random = torch.Generator().manual_seed(seed)
    boxes = torch.rand(queries + count, 4, generator=random) * 0.4 + 0.2
    logits = torch.randn(queries, 3, generator=random)
    classes = torch.randint(3, (count,), generator=random)
    return logits, boxes[:queries], ImageTargets(classes, boxes[queries:])


def test_a_cost_by_hand() -> None:
    """Logit 0: p = 1/2, (.25 - .75) * .25 * ln 2 = -.0866434; the same box: no distance, GIoU 1."""
    box = torch.tensor([[0.5, 0.5, 0.2, 0.4]])
    targets = ImageTargets(torch.tensor([1]), box)
    cost = matching_cost(torch.zeros(1, 3), box, targets, WEIGHTS)
    assert cost.item() == pytest.approx(2 * -0.0866434 - 2, abs=1e-6)
    # Beside it: |dx| = .4, no overlap, hull .6 x .4, of which .08 is empty: GIoU -1/3.
    beside = torch.tensor([[0.9, 0.5, 0.2, 0.4]])
    cost = matching_cost(torch.zeros(1, 3), beside, targets, WEIGHTS)
    assert cost.item() == pytest.approx(2 * -0.0866434 + 5 * 0.4 + 2 / 3, abs=1e-5)


def test_costs_are_those_of_a_loop() -> None:
    logits, boxes, targets = random_image(6, 4, seed=1)
    cost = matching_cost(logits, boxes, targets, WEIGHTS)
    for query, number in itertools.product(range(6), range(4)):
        logit = logits[query, targets.classes[number]].item()
        slow = slow_cost(logit, boxes[query].tolist(), targets.boxes[number].tolist())
        assert cost[query, number].item() == pytest.approx(slow, abs=1e-5)


def test_large_logits_have_finite_costs_in_half_precision() -> None:
    _, boxes, targets = random_image(4, 2, seed=2)
    logits = torch.tensor([[6e4, -6e4, 1e3]]).repeat(4, 1).half()
    cost = matching_cost(logits, boxes.half(), targets, WEIGHTS)
    assert cost.dtype == torch.float32 and torch.isfinite(cost).all()


@pytest.mark.parametrize(("queries", "count"), [(5, 3), (4, 4), (3, 5), (5, 1)])
def test_the_assignment_is_the_cheapest_of_all(queries: int, count: int) -> None:
    logits, boxes, targets = random_image(queries, count, seed=3)
    cost = matching_cost(logits, boxes, targets, WEIGHTS)
    number = min(queries, count)
    every = (
        sum(cost[q, o].item() for q, o in zip(qs, os, strict=True))
        for qs in itertools.combinations(range(queries), number)
        for os in itertools.permutations(range(count), number)
    )
    found = match(logits[None], boxes[None], [targets], [queries], WEIGHTS)[0]
    matched = found != UNMATCHED
    assert matched.sum() == number and len(set(found[matched].tolist())) == number
    total = cost[matched, found[matched]].sum().item()
    assert total == pytest.approx(min(every), abs=1e-4)


def test_images_and_layers_are_assigned_apart() -> None:
    images = [random_image(7, count, seed=count) for count in (2, 0, 3)]
    logits, boxes = (torch.stack([one[i] for one in images]) for i in (0, 1))
    targets = [one[2] for one in images]
    joined = match(logits, boxes, targets, [3, 4], WEIGHTS)
    alone = [
        match(logits[:, part], boxes[:, part], targets, [part.stop - part.start], WEIGHTS)
        for part in (slice(0, 3), slice(3, 7))
    ]
    assert joined.equal(torch.cat(alone, dim=1))
    assert (joined[1] == UNMATCHED).all()
    for row, count in zip(joined, (2, 0, 3), strict=True):
        for layer in row.split([3, 4]):
            assert sorted(layer[layer >= 0].tolist()) == list(range(count))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_cost_that_is_not_finite_is_an_error(bad: float) -> None:
    logits, boxes, targets = random_image(4, 2, seed=4)
    boxes[2, 1] = bad
    with pytest.raises(FloatingPointError, match="matching cost"):
        match(logits[None], boxes[None], [targets], [4], WEIGHTS)
