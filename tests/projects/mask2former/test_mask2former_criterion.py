"""Losses of all layers against a formulation with loops, and query drop in them."""

from typing import Any

import pytest
import torch
from detectron2.utils.events import EventStorage
from torch import Tensor
from torch.nn import functional as F
from weaksam_d2.projects.mask2former import (
    LayerPrediction,
    MaskCriterion,
    MaskMatcher,
    MaskTargets,
)

from weaksam_d2.retrain import QueryDrop, QueryDropSettings

C, Q, LAYERS, POINTS = 3, 12, 3, 40
OFF = QueryDropSettings(enabled=False)


class RecordingMatcher(MaskMatcher):
    """Remembers what it found, since its points are random."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.found: list[Any] = []

    def __call__(self, *args: Any) -> Any:
        pairs = super().__call__(*args)
        self.found.append(pairs)
        return pairs


def criterion(settings: QueryDropSettings = OFF, **changes: Any) -> MaskCriterion:
    return MaskCriterion(
        num_classes=C,
        matcher=RecordingMatcher(num_points=POINTS),
        drop=QueryDrop(settings),
        num_points=POINTS,
        **changes,
    )


def predictions(images: int = 2, queries: int = Q, seed: int = 0) -> list[LayerPrediction]:
    generator = torch.Generator().manual_seed(seed)
    return [
        LayerPrediction(
            torch.randn(images, queries, C + 1, generator=generator).requires_grad_(),
            (3 * torch.randn(images, queries, 8, 8, generator=generator)).requires_grad_(),
        )
        for _ in range(LAYERS)
    ]


def targets(count: int, seed: int = 0) -> MaskTargets:
    generator = torch.Generator().manual_seed(seed)
    classes = torch.randint(0, C, (count,), generator=generator)
    return MaskTargets(classes, torch.rand(count, 32, 32, generator=generator) > 0.6)


def whole(side: int = 8) -> Tensor:
    """Centers of all pixels: points for which sampled and slow losses look at the same."""
    steps = (torch.arange(side) + 0.5) / side
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return torch.stack([x, y], dim=-1).view(1, -1, 2)


def slow_losses(
    layer: LayerPrediction, objects: list[MaskTargets], pairs: Any, points: Tensor
) -> dict[str, float]:
    """One query, one mask, one point after the other."""
    numerator = denominator = mask = dice = 0.0
    for image, target in enumerate(objects):
        owner = {int(q): int(o) for q, o in zip(*pairs[image], strict=True)}
        for query in range(layer.logits.shape[1]):
            label = int(target.classes[owner[query]]) if query in owner else C
            weight = 0.1 if label == C else 1.0
            numerator -= weight * float(layer.logits[image, query].log_softmax(0)[label])
            denominator += weight
            if label == C:
                continue
            shown = layer.masks[image, query][None, None]
            grid = 2 * points[:, None] - 1
            x = F.grid_sample(shown, grid, align_corners=False).flatten()
            true = target.masks[owner[query]][None, None].float()
            t = F.grid_sample(true, grid, align_corners=False).flatten()
            p = x.sigmoid()
            terms = [
                -float(t[k] * p[k].log() + (1 - t[k]) * (1 - p[k]).log()) for k in range(len(t))
            ]
            mask += sum(terms) / len(terms)
            dice += 1 - float((2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1))
    count = max(sum(len(one.classes) for one in objects), 1)
    found = {"loss_ce": 2 * numerator / denominator, "loss_mask": 5 * mask / count}
    return {**found, "loss_dice": 5 * dice / count}


def test_every_layer_has_the_losses_of_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    points = whole()
    monkeypatch.setattr(
        "weaksam_d2.projects.mask2former.criterion.get_uncertain_point_coords_with_randomness",
        lambda logits, *_: points.expand(len(logits), -1, -1),
    )
    layers, objects, judge = predictions(), [targets(3, 1), targets(2, 2)], criterion()
    found = judge(layers, objects)
    assert list(found)[:3] == ["loss_ce", "loss_mask", "loss_dice"] and len(found) == 3 * LAYERS
    for number, (layer, pairs) in enumerate(zip(layers, judge.matcher.found, strict=True)):
        suffix = "" if number == LAYERS - 1 else f"_{number}"
        with torch.no_grad():
            wanted = slow_losses(layer, objects, pairs, points)
        for name, value in wanted.items():
            assert found[name + suffix].item() == pytest.approx(value, rel=1e-4), name + suffix


def test_most_points_lie_where_the_prediction_is_least_certain() -> None:
    judge, target = criterion(), targets(1)
    logits = torch.full((1, 8, 8), 9.0)
    logits[:, :, 4:] = -9.0
    seen: list[Tensor] = []
    pairs = [(torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64))]
    judge.num_points = 400
    original = F.grid_sample

    def record(values: Tensor, grid: Tensor, **kwargs: Any) -> Tensor:
        seen.append((grid.flatten(0, 2) + 1) / 2)
        return original(values, grid, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("detectron2.projects.point_rend.point_features.F.grid_sample", record)
        judge._mask_rows(logits, [target], pairs)
    chosen = seen[-1]
    assert len(seen[0]) == 1200 and len(chosen) == 400
    near = ((chosen[:, 0] - 0.5).abs() < 0.0625 + 1e-6).float().mean()
    assert near > 0.3 > 2 * ((seen[0][:, 0] - 0.5).abs() < 0.0625).float().mean()


def test_a_dropped_query_leaves_its_row_of_all_three_losses_in_every_layer() -> None:
    layers, objects = predictions(), [targets(8, 1), targets(7, 2)]
    plain, dropping = criterion(), criterion(QueryDropSettings(percentile=80))
    torch.manual_seed(5)
    before = plain(layers, objects)
    torch.manual_seed(5)
    after = dropping(layers, objects)
    for number in range(LAYERS):
        suffix = "" if number == LAYERS - 1 else f"_{number}"
        torch.manual_seed(5)  # the same points as above
        for layer in layers[: number + 1]:
            rows = plain._rows(layer, objects)
        losses = rows.classes[rows.place].detach()
        limit = losses.sort(descending=True).values[15 * 20 // 100]
        gone = losses > limit
        assert gone.sum() == 3
        weights = rows.matched.float() + 0.1 * (~rows.matched).float()
        lost = {
            "loss_ce": 2 * losses[gone].sum() / weights.sum(),
            "loss_mask": 5 * rows.mask[gone].sum() / 15,
            "loss_dice": 5 * rows.dice[gone].sum() / 15,
        }
        for name, value in lost.items():
            change = before[name + suffix] - after[name + suffix]
            assert change.item() == pytest.approx(value.item(), rel=1e-4), name + suffix


def test_background_can_be_dropped_as_well() -> None:
    layers, objects = predictions(), [targets(5, 1), targets(4, 2)]
    judge = criterion(QueryDropSettings(percentile=50, group="things+background"))
    torch.manual_seed(5)
    rows = judge._rows(layers[0], objects)
    (keep,) = judge.drop([rows.classes], [rows.matched])
    assert (~keep & ~rows.matched).any() and (~keep & rows.matched).any()
    torch.manual_seed(5)
    found = judge(layers[:1], objects)
    weight = torch.where(rows.matched, 1.0, 0.1)
    wanted = 2 * (rows.classes * weight * keep).sum() / weight.sum()
    assert found["loss_ce"].item() == pytest.approx(wanted.item(), rel=1e-5)
    left = rows.mask[keep[rows.place]].sum() * 5 / 9
    assert found["loss_mask"].item() == pytest.approx(left.item(), rel=1e-5)


def test_the_random_stream_is_that_of_an_undropped_step() -> None:
    layers, objects, ends = predictions(), [targets(8), targets(7)], []
    for settings in (OFF, QueryDropSettings(percentile=50)):
        torch.manual_seed(5)
        criterion(settings)(layers, objects)
        ends.append(torch.rand(1).item())
    assert ends[0] == ends[1]


def test_the_norm_of_kept_queries_divides_by_what_is_left() -> None:
    layers, objects, found = predictions(), [targets(8, 1), targets(7, 2)], {}
    for norm in ("total", "kept"):
        torch.manual_seed(5)
        found[norm] = criterion(QueryDropSettings(percentile=80, norm=norm))(layers, objects)
    for name in ("loss_mask", "loss_dice_0"):
        assert (found["kept"][name] / found["total"][name]).item() == pytest.approx(15 / 12)
    weights = 15 + 0.1 * (2 * Q - 15)
    ratio = (found["kept"]["loss_ce"] / found["total"]["loss_ce"]).item()
    assert ratio == pytest.approx(weights / (weights - 3))


def test_query_drop_is_off_before_its_start() -> None:
    layers, objects, found = predictions(), [targets(8), targets(7)], []
    settings = QueryDropSettings(percentile=50, start_iter=3)
    for iteration in (2, 3):
        with EventStorage(iteration):
            torch.manual_seed(5)
            found.append(criterion(settings)(layers, objects)["loss_mask"].item())
    torch.manual_seed(5)
    assert found[0] == criterion()(layers, objects)["loss_mask"].item() > found[1]


def test_without_objects_only_classes_are_learned_and_every_gradient_exists() -> None:
    layers = predictions()
    found = criterion()(layers, [targets(0), targets(0)])
    assert all(float(found[k].detach()) == 0 for k in found if "ce" not in k)
    assert found["loss_ce"] > 0
    sum(found.values()).backward()
    for layer in layers:
        assert layer.masks.grad is not None and not layer.masks.grad.any()
        assert layer.logits.grad is not None and layer.logits.grad.any()


def test_of_more_objects_than_queries_some_teach_nothing() -> None:
    layers = predictions(queries=4)
    judge = criterion()
    found = judge(layers, [targets(9), targets(0)])
    assert [len(queries) for queries, _ in judge.matcher.found[0]] == [4, 0]
    assert all(value.isfinite() for value in found.values())


def test_pixels_without_label_teach_no_mask() -> None:
    layers, target = predictions(images=1), targets(3)
    valid = torch.zeros(32, 32, dtype=torch.bool)
    valid[:, :14] = True
    changed = target.masks.clone()
    changed[:, :, 16:] = ~changed[:, :, 16:]

    def losses(masks: Tensor, seen: Tensor | None) -> dict[str, Tensor]:
        torch.manual_seed(2)
        return criterion()(layers, [MaskTargets(target.classes, masks, seen)])

    plain, flipped = losses(target.masks, valid), losses(changed, valid)
    for name, value in plain.items():
        assert value.item() == pytest.approx(flipped[name].item(), rel=1e-5), name
    assert losses(target.masks, None)["loss_mask"] != losses(changed, None)["loss_mask"]


def test_logits_of_half_precision_do_not_overflow() -> None:
    layers = [
        LayerPrediction((layer.logits * 1e4).half(), (layer.masks * 3e3).half())
        for layer in predictions()
    ]
    found = criterion(QueryDropSettings())(layers, [targets(6), targets(7)])
    assert all(v.isfinite() and v.dtype == torch.float32 for v in found.values())
