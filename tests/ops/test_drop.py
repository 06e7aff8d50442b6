"""Tests of weaksam_d2.ops.drop."""

import pytest
import torch

from weaksam_d2.ops import (
    kept_mean,
    percentile_loss,
    query_drop_mask,
    roi_drop_mask,
    running_limits,
    score_weight,
)

NAN = float("nan")

CLS = torch.tensor([0.5, 4.5, 2.0, 3.0])
REG = torch.tensor([1.0, 0.4, 6.0, float("nan")])  # the last is background: its loss is not read
FG = torch.tensor([True, True, True, False])


def keep(mode: str, cls: torch.Tensor = CLS, reg: torch.Tensor = REG) -> list[int]:
    mask = roi_drop_mask(cls, reg, FG, cls_threshold=4.0, reg_threshold=4.0, mode=mode)
    assert mask.dtype == torch.bool
    return mask.int().tolist()


def test_paper_drops_if_either_loss_is_high() -> None:
    assert keep("paper") == [1, 0, 0, 1]
    kept = torch.tensor(keep("paper")).bool()
    reg = torch.where(FG, REG, 0.0)
    assert CLS[kept].sum().item() / 4 == 0.875
    assert reg[kept].sum().item() / 4 == 0.25
    assert CLS[kept].sum().item() / int(kept.sum()) == 1.75
    assert reg[kept].sum().item() / int(kept.sum()) == 0.5


def test_release_drops_only_if_both_losses_are_high() -> None:
    assert keep("release_both") == [1, 1, 1, 1]
    assert keep("release_both", reg=torch.tensor([1.0, 4.4, 6.0, 0.0])) == [1, 0, 1, 1]


def test_single_criteria_and_off() -> None:
    assert keep("cls") == [1, 0, 1, 1]
    assert keep("reg") == [1, 1, 0, 1]
    assert keep("off") == [1, 1, 1, 1]


def test_background_is_judged_by_its_class_loss_alone() -> None:
    cls, reg = torch.tensor([4.2]), torch.tensor([99.0])
    background = torch.tensor([False])
    expected = {"paper": False, "release_both": True, "cls": False, "reg": True}
    for mode, kept in expected.items():
        mask = roi_drop_mask(cls, reg, background, cls_threshold=4, reg_threshold=4, mode=mode)
        assert mask.tolist() == [kept]


def test_equality_keeps() -> None:
    deltas = torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 1.01]])
    mask = roi_drop_mask(
        torch.tensor([4.0, 0.0]),
        deltas.mean(1),
        torch.tensor([True, True]),
        cls_threshold=4.0,
        reg_threshold=1.0,
    )
    assert mask.tolist() == [True, False]


def test_permuting_rois_permutes_the_mask() -> None:
    generator = torch.Generator().manual_seed(0)
    cls, reg = torch.rand(2, 40, generator=generator) * 8
    foreground = torch.rand(40, generator=generator) > 0.5
    order = torch.randperm(40, generator=generator)
    thresholds = {"cls_threshold": 4.0, "reg_threshold": 4.0}
    for mode in ("paper", "release_both", "cls", "reg"):
        mask = roi_drop_mask(cls, reg, foreground, **thresholds, mode=mode)
        again = roi_drop_mask(cls[order], reg[order], foreground[order], **thresholds, mode=mode)
        assert torch.equal(again, mask[order])
        for i in range(40):  # the rule, one RoI at a time
            high_cls = bool(cls[i] > 4)
            high_reg = bool(foreground[i] and reg[i] > 4)
            dropped = {
                "paper": high_cls or high_reg,
                "release_both": high_cls and high_reg,
                "cls": high_cls,
                "reg": high_reg,
            }[mode]
            assert mask[i].item() is not dropped


def test_no_rois_and_no_gradient() -> None:
    none = torch.zeros(0)
    mask = roi_drop_mask(none, none, none.bool(), cls_threshold=1, reg_threshold=1)
    assert mask.shape == (0,)
    cls = torch.ones(1, requires_grad=True)
    mask = roi_drop_mask(cls, cls, torch.tensor([True]), cls_threshold=1, reg_threshold=1)
    assert not mask.requires_grad


def test_broken_roi_losses_and_unknown_modes_are_refused() -> None:
    with pytest.raises(FloatingPointError, match="classification loss"):
        keep("paper", cls=torch.tensor([0.5, float("nan"), 2, 3]))
    with pytest.raises(FloatingPointError, match="box loss"):
        keep("off", reg=torch.tensor([0.5, float("inf"), 2, 3]))
    with pytest.raises(ValueError, match="both"):
        keep("both")


def test_limits_may_differ_for_each_roi_and_nan_drops_nothing() -> None:
    limits = torch.tensor([0.4, float("nan"), 2.0, 2.5])
    mask = roi_drop_mask(CLS, REG, FG, cls_threshold=limits, reg_threshold=NAN, mode="paper")
    assert mask.tolist() == [False, True, True, False]


def test_losses_of_the_example_are_divided_by_all_or_by_the_kept() -> None:
    cls, kept = CLS.clone().requires_grad_(), torch.tensor([True, False, False, True])
    assert kept_mean(cls, kept).item() == 3.5 / 4
    assert kept_mean(cls, kept, norm="kept").item() == 1.75
    weight = torch.tensor([0.5, 9.0, 9.0, 1.0])
    assert kept_mean(cls, kept, weight=weight).item() == 3.25 / 4
    kept_mean(cls, kept, weight=weight).backward()
    assert cls.grad is not None and cls.grad.tolist() == [0.125, 0, 0, 0.25]
    with pytest.raises(ValueError, match="norm"):
        kept_mean(cls, kept, norm="all")


def test_no_loss_and_no_kept_loss_are_zero_and_infinity_may_be_dropped() -> None:
    nothing = torch.zeros(0, requires_grad=True)
    for norm in ("total", "kept"):
        assert kept_mean(nothing, torch.zeros(0, dtype=torch.bool), norm=norm).item() == 0
        gone = kept_mean(torch.tensor([float("inf")]), torch.tensor([False]), norm=norm)
        assert gone.item() == 0


def test_the_limit_of_a_pool_is_its_kth_largest_loss() -> None:
    losses = torch.arange(1.0, 21).flip(0)
    everyone = torch.ones(20, dtype=torch.bool)
    assert percentile_loss(losses, everyone, 90).item() == 18
    pool = losses <= 10  # ten members, k = 1
    assert percentile_loss(losses, pool, 90).item() == 9
    assert percentile_loss(losses, losses <= 9, 90).isnan()
    assert percentile_loss(torch.zeros(0), everyone[:0], 90).isnan()
    with pytest.raises(ValueError, match="integer in"):
        percentile_loss(losses, everyone, 0.9)  # type: ignore[arg-type]


def test_running_limits_move_slowly_and_drop_by_what_was_before() -> None:
    running = torch.tensor([4.0, NAN, 4.0])
    batch = torch.tensor([6.0, 6.0, NAN])
    limits, after = running_limits(running, batch, 0.99)
    torch.testing.assert_close(limits, torch.tensor([4.0, NAN, NAN]), equal_nan=True)
    torch.testing.assert_close(after, torch.tensor([4.02, 6.0, 4.0]))
    limits, after = running_limits(after[:1], batch[:1], 0.99)
    torch.testing.assert_close(limits, torch.tensor([4.02]))
    torch.testing.assert_close(after, torch.tensor([4.0398]))


def test_without_momentum_a_batch_has_its_own_limits() -> None:
    batch = torch.tensor([6.0, NAN])
    limits, _ = running_limits(torch.tensor([4.0, 4.0]), batch, 0.0)
    torch.testing.assert_close(limits, batch, equal_nan=True)


def test_a_score_weighs_foreground_within_zero_and_one() -> None:
    score = torch.tensor([0.3, 1.125, -0.5, NAN])
    assert score_weight(score, FG).tolist() == pytest.approx([0.3, 1, 0, 1])
    with pytest.raises(ValueError, match="score_norm"):
        score_weight(score, torch.ones_like(FG))


def dropped(losses: list[float], percentile: int = 90, **options: object) -> list[int]:
    mask = query_drop_mask(torch.tensor(losses), percentile=percentile, **options)  # type: ignore
    return (~mask).nonzero()[:, 0].tolist()


def test_only_the_highest_of_ten_queries_goes() -> None:
    assert dropped([0.1, 0.2, 0.3, 0.4, 0.5, 5.0, 0.6, 0.7, 0.8, 0.9]) == [5]
    assert dropped([0.1, 0.2, 0.3, 0.4, 0.5, 5.0, 0.6, 0.7, 0.8]) == []


def test_ties_with_the_limit_stay() -> None:
    assert dropped([5.0, 5.0] + [0.1] * 18) == [0, 1]
    assert dropped([5.0, 5.0, 5.0] + [0.1] * 17) == []


def test_pooling_ranks_finds_more_than_one_rank() -> None:
    first, second = [1.0, 2, 3, 4, 5, 6], [7.0, 8, 9, 10, 11, 12]
    assert dropped(first) == dropped(second) == []
    assert dropped(first + second) == [11]


@pytest.mark.parametrize(("n", "count"), [(0, 0), (1, 0), (9, 0), (10, 1), (19, 1), (30, 3)])
def test_the_number_dropped_is_exact(n: int, count: int) -> None:
    assert len(dropped([float(i) for i in range(n)])) == count


def test_background_is_not_ranked() -> None:
    losses = [float(i) for i in range(10)] + [99.0] * 10
    foreground = torch.tensor([True] * 10 + [False] * 10)
    assert dropped(losses, foreground=foreground) == [9]
    assert dropped(losses, foreground=torch.zeros(20, dtype=torch.bool)) == []


def test_joint_pools_rank_both_groups_after_scaling() -> None:
    background = [1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1] + [0.0] * 7
    losses = [1.0, 2.0, 5.0, *background]
    foreground = torch.tensor([True] * 3 + [False] * 17)
    assert dropped(losses, foreground=foreground, pool="fg") == []
    assert dropped(losses, foreground=foreground, pool="all_then_fg") == [2]
    assert dropped(losses, foreground=foreground, pool="all") == [2, 3]


def test_joint_pools_take_one_group_or_constant_losses() -> None:
    losses = [1.0] * 19 + [2.0]
    one_group = torch.ones(20, dtype=torch.bool)
    assert dropped(losses, pool="all") == [19]  # the limit is the third largest, which ties
    assert dropped(losses, foreground=one_group, pool="all_then_fg") == [19]
    assert dropped([3.0] * 20, foreground=~one_group, pool="all") == []
    assert dropped([], foreground=torch.zeros(0, dtype=torch.bool), pool="all") == []


def test_all_percentiles_equal_the_sorted_rule() -> None:
    losses = torch.rand(37, generator=torch.Generator().manual_seed(1)).tolist()
    for percentile in range(1, 101):
        limit = sorted(losses, reverse=True)[37 * (100 - percentile) // 100]
        expected = [i for i, loss in enumerate(losses) if loss > limit]
        assert dropped(losses, percentile) == expected


@pytest.mark.parametrize("percentile", [0, 101, 0.9])
def test_percentiles_are_integers_of_percent(percentile: int) -> None:
    with pytest.raises(ValueError, match="integer in"):
        dropped([1.0], percentile)


def test_broken_query_losses_and_unknown_pools_are_refused() -> None:
    with pytest.raises(FloatingPointError, match="query"):
        dropped([1.0, float("inf")])
    with pytest.raises(ValueError, match="bg"):
        dropped([1.0], pool="bg")
