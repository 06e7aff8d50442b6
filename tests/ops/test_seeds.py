"""Tests of weaksam_d2.ops.seeds."""

import math

import pytest
import torch
from torch.nn import functional as F

from weaksam_d2.ops import (
    Seeds,
    assign_to_seeds,
    mist,
    near_maximum,
    pairwise_iou,
    top_scoring,
    weighted_ce,
)

FAR = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 30], [40, 40, 50, 50]])


def random_case(n: int, c: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    low = torch.randint(0, 30, (n, 2), generator=generator)
    side = torch.randint(1, 30, (n, 2), generator=generator)
    scores = torch.randint(0, 20, (n, c), generator=generator) / 20
    return torch.cat([low, low + side], 1).float(), scores


def slow_mist(
    boxes: torch.Tensor, scores: torch.Tensor, labels: list[int], k: int, suppress: str
) -> list[tuple[int, int]]:
    iou, seeds = pairwise_iou(boxes, boxes), []
    for c in sorted(labels):
        ranked = sorted(range(len(boxes)), key=lambda r: (-scores[r, c].item(), r))[:k]
        kept: list[int] = []
        for rank, r in enumerate(ranked):
            rivals = kept if suppress == "kept" else ranked[:rank]
            if all(iou[r, q] < 0.2 for q in rivals):
                kept.append(r)
        seeds += [(c, r) for r in kept]
    return seeds


def test_worked_example_of_refinement() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8], [20, 20, 30, 30]])
    seeds = top_scoring(boxes, torch.tensor([[0.6], [0.3], [0.1]]), torch.tensor([0]))
    assert seeds.boxes.tolist() == [[0, 0, 10, 10]]
    labels, weights, index = assign_to_seeds(boxes, seeds, num_classes=1, fg_iou=0.5)
    assert labels.tolist() == [0, 0, 1]
    assert index.tolist() == [0, 0, 0]
    torch.testing.assert_close(weights, torch.full((3,), 0.6))
    loss = weighted_ce(torch.zeros(3, 2), labels, weights)
    assert loss.item() == pytest.approx(0.6 * math.log(2))
    assert 3 * loss.item() == pytest.approx(1.247665, abs=1e-6)


def test_zero_row_gives_the_second_class_another_proposal() -> None:
    scores = torch.tensor([[0.9, 0.8], [0.1, 0.5]])
    boxes, labels = FAR[:2], torch.tensor([1, 0])
    plain = top_scoring(boxes, scores, labels)
    assert plain.boxes.tolist() == [boxes[0].tolist()] * 2
    assert plain.classes.tolist() == [0, 1]
    assert assign_to_seeds(boxes, plain, num_classes=2).labels.tolist() == [0, 2]
    zeroed = top_scoring(boxes, scores, labels, zero_row=True)
    assert torch.equal(zeroed.boxes, boxes)
    torch.testing.assert_close(zeroed.scores, torch.tensor([0.9, 0.5]))
    assert scores[0, 1] == pytest.approx(0.8)  # the input is left alone


def test_top_scoring_takes_the_first_of_equals() -> None:
    seeds = top_scoring(FAR, torch.full((3, 2), 0.5), torch.tensor([1]))
    assert seeds.boxes.tolist() == [FAR[0].tolist()]
    assert seeds.classes.tolist() == [1]


def test_near_maximum_takes_the_top_tenth_and_suppresses() -> None:
    scores = torch.tensor([[1.0], [0.91], [0.5]])
    seeds = near_maximum(FAR, scores, torch.tensor([0]))
    assert torch.equal(seeds.boxes, FAR[:2])
    close = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 6], [40, 40, 50, 50]])  # IoU .6
    assert torch.equal(near_maximum(close, scores, torch.tensor([0])).boxes, close[:1])


def test_near_maximum_may_lose_a_class_unless_one_is_kept() -> None:
    scores = torch.tensor([[0.9, 0.8], [0.0, 0.0]])
    lost = near_maximum(FAR[:2], scores, torch.tensor([0, 1]))
    assert lost.classes.tolist() == [0]
    back = near_maximum(FAR[:2], scores, torch.tensor([0, 1]), keep_one=True)
    assert back.classes.tolist() == [0, 1]
    torch.testing.assert_close(back.scores, torch.tensor([0.9, 0.8]))


def test_near_maximum_equals_the_slow_rule_in_class_then_rank_order() -> None:
    for seed in range(5):
        boxes, scores = random_case(25, 3, seed)
        iou, found = pairwise_iou(boxes, boxes), []
        for c in (0, 2):
            limit = 0.9 * scores[:, c].max()
            rows = [r for r in range(25) if scores[r, c] >= limit]
            rows.sort(key=lambda r, c=c: (-scores[r, c].item(), r))
            found += [(c, r) for r in rows]
        kept: list[tuple[int, int]] = []
        for c, r in sorted(found, key=lambda s: -scores[s[1], s[0]].item()):
            if all(iou[r, q] <= 0.5 for _, q in kept):
                kept.append((c, r))
        expected = [s for s in found if s in kept]
        seeds = near_maximum(boxes, scores, torch.tensor([2, 0]))
        assert seeds.classes.tolist() == [c for c, _ in expected]
        assert seeds.boxes.tolist() == [boxes[r].tolist() for _, r in expected]


def test_mist_rules_differ_on_a_chain() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])
    scores = torch.tensor([[0.9], [0.8], [0.7]])
    labels = torch.tensor([0])
    kept = mist(boxes, scores, labels, top_fraction=1.0, suppress="kept")
    assert torch.equal(kept.boxes, boxes[[0, 2]])
    prior = mist(boxes, scores, labels, top_fraction=1.0, suppress="all_prior")
    assert torch.equal(prior.boxes, boxes[:1])


@pytest.mark.parametrize(("n", "k"), [(1, 1), (6, 1), (10, 1), (20, 3), (213, 31)])
def test_mist_takes_a_share_of_the_proposals(n: int, k: int) -> None:
    x = torch.arange(n) * 20.0
    boxes = torch.stack([x, x * 0, x + 10, x * 0 + 10], 1)  # disjoint
    assert len(mist(boxes, torch.rand(n, 1), torch.tensor([0])).boxes) == k


def test_mist_share_is_exact_where_floats_are_not() -> None:
    assert int(100 * 0.29) == 28  # the trap
    x = torch.arange(100) * 20.0
    boxes = torch.stack([x, x * 0, x + 10, x * 0 + 10], 1)
    seeds = mist(boxes, torch.rand(100, 1), torch.tensor([0]), top_fraction=0.29)
    assert len(seeds.boxes) == 29


@pytest.mark.parametrize("suppress", ["all_prior", "kept"])
def test_mist_equals_the_slow_rule(suppress: str) -> None:
    for seed in range(5):
        boxes, scores = random_case(40, 4, seed)
        seeds = mist(boxes, scores, torch.tensor([3, 1]), top_fraction=0.5, suppress=suppress)
        expected = slow_mist(boxes, scores, [1, 3], 20, suppress)
        assert seeds.classes.tolist() == [c for c, _ in expected]
        assert seeds.boxes.tolist() == [boxes[r].tolist() for _, r in expected]
        assert seeds.scores.tolist() == [scores[r, c].item() for c, r in expected]


@pytest.mark.parametrize("mine", [top_scoring, near_maximum, mist])
def test_no_labels_or_proposals_give_no_seeds(mine: object) -> None:
    assert callable(mine)
    nothing = torch.zeros(0, dtype=torch.int64)
    for seeds in (
        mine(FAR, torch.rand(3, 2), nothing),
        mine(torch.zeros(0, 4), torch.zeros(0, 2), torch.tensor([0])),
    ):
        assert [tuple(field.shape) for field in seeds] == [(0, 4), (0,), (0,)]
        assert seeds.classes.dtype == torch.int64


@pytest.mark.parametrize("mine", [top_scoring, near_maximum, mist])
def test_one_proposal_seeds_each_class_without_gradient(mine: object) -> None:
    assert callable(mine)
    scores = torch.tensor([[0.2, 0.7]], requires_grad=True)
    seeds = mine(FAR[:1], scores, torch.tensor([1]))
    assert seeds.classes.tolist() == [1]
    assert not seeds.scores.requires_grad


def test_bad_mining_arguments_are_refused() -> None:
    labels = torch.tensor([0])
    with pytest.raises(ValueError, match="all"):
        mist(FAR, torch.rand(3, 1), labels, suppress="none")
    with pytest.raises(ValueError, match="got 0"):
        mist(FAR, torch.rand(3, 1), labels, top_fraction=0)
    with pytest.raises(ValueError, match=r"\(R, C\)"):
        top_scoring(FAR, torch.rand(2, 1), labels)


def test_assignment_equals_the_slow_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, scores = random_case(50, 3, 7)
    seeds = mist(boxes, scores, torch.tensor([0, 2]), top_fraction=0.4)
    labels, weights, index = assign_to_seeds(boxes, seeds, num_classes=3, ignore_iou=0.1)
    iou = pairwise_iou(boxes, seeds.boxes)
    for r in range(50):
        best = max(range(len(seeds.boxes)), key=lambda s: (iou[r, s].item(), -s))
        value = iou[r, best].item()
        assert index[r] == best
        assert labels[r] == (seeds.classes[best] if value >= 0.5 else 3)
        assert weights[r] == (seeds.scores[best] if value >= 0.1 else 0)
    monkeypatch.setattr("weaksam_d2.ops.seeds._MAX_IOU_ENTRIES", 1)
    assert torch.equal(assign_to_seeds(boxes, seeds, num_classes=3).index, index)


def test_half_overlap_is_foreground() -> None:
    seeds = Seeds(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([4]), torch.tensor([0.3]))
    boxes = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 4.9]])
    assert assign_to_seeds(boxes, seeds, num_classes=9).labels.tolist() == [4, 9]


def test_foreground_may_have_to_lie_above_the_threshold() -> None:
    seeds = Seeds(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([4]), torch.tensor([0.3]))
    boxes = torch.tensor([[0.0, 0, 10, 5], [0, 0, 10, 5.1]])
    assert assign_to_seeds(boxes, seeds, num_classes=9, fg_strict=True).labels.tolist() == [9, 4]


@pytest.mark.parametrize("entries", [1, 1 << 24])
def test_mist_with_many_candidates_equals_the_slow_rule(
    monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    monkeypatch.setattr("weaksam_d2.ops.seeds._MAX_IOU_ENTRIES", entries)
    monkeypatch.setattr("weaksam_d2.ops.seeds._FIRST_RANKS", 3)
    boxes, scores = random_case(60, 3, 8)
    seeds = mist(boxes, scores, torch.tensor([2, 0]), top_fraction=1.0)
    expected = slow_mist(boxes, scores, [0, 2], 60, "all_prior")
    assert seeds.boxes.tolist() == [boxes[r].tolist() for _, r in expected]
    assert seeds.classes.tolist() == [c for c, _ in expected]


def test_the_logarithm_may_be_shifted_and_the_norm_count_weights() -> None:
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [-9.0, 30.0]])
    labels, weights = torch.tensor([0, 1, 0]), torch.tensor([0.5, 1.0, 0.0])
    p = logits.softmax(1)
    expected = -(0.5 * (p[0, 0] + 0.1).log() + (p[1, 1] + 0.1).log())
    loss = weighted_ce(logits, labels, weights, log_eps=0.1)
    torch.testing.assert_close(loss, expected / 3)
    by_weights = weighted_ce(logits, labels, weights, log_eps=0.1, norm="weights")
    torch.testing.assert_close(by_weights, expected / 2)
    with pytest.raises(ValueError, match="'images'"):
        weighted_ce(logits, labels, weights, norm="images")


def test_no_weight_at_all_is_zero_and_not_a_quotient_of_zeros() -> None:
    logits = torch.randn(3, 2, requires_grad=True)
    loss = weighted_ce(logits, torch.zeros(3, dtype=torch.int64), torch.zeros(3), norm="weights")
    loss.backward()
    assert loss.item() == 0


def test_permuting_proposals_permutes_the_assignment() -> None:
    boxes, scores = random_case(30, 2, 9)
    seeds = mist(boxes, scores, torch.tensor([0, 1]))
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    given = assign_to_seeds(boxes, seeds, num_classes=2)
    moved = assign_to_seeds(boxes[order], seeds, num_classes=2)
    assert all(torch.equal(a[order], b) for a, b in zip(given, moved, strict=True))


def test_without_seeds_all_is_background_and_the_loss_zero_with_a_graph() -> None:
    none = Seeds(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    labels, weights, index = assign_to_seeds(FAR, none, num_classes=2)
    assert labels.tolist() == [2, 2, 2]
    assert weights.tolist() == [0, 0, 0]
    assert index.tolist() == [-1, -1, -1]
    logits = torch.randn(3, 3, requires_grad=True)
    loss = weighted_ce(logits, labels, weights)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_loss_of_no_proposals_is_zero_with_a_graph() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    loss = weighted_ce(logits, torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    loss.backward()
    assert loss.item() == 0


def test_loss_is_divided_by_all_proposals() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 3, generator=generator)
    labels, weights = torch.tensor([0, 2, 1, 2]), torch.tensor([0.5, 0.0, 1.0, 0.0])
    expected = sum(
        w * F.cross_entropy(x[None], y[None])
        for x, y, w in zip(logits, labels, weights, strict=True)
    )
    torch.testing.assert_close(weighted_ce(logits, labels, weights), expected / 4)
    assert weighted_ce(logits.bfloat16(), labels, weights).dtype == torch.float32
