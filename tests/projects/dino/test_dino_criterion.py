"""The losses against plain loops, what query drop takes out of them, images without objects."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils.events import EventStorage
from torch import Tensor
from weaksam_d2.projects.dino.config import add_dino_config
from weaksam_d2.projects.dino.criterion import DINOCriterion, LossWeights
from weaksam_d2.projects.dino.denoising import Denoising, make_denoising
from weaksam_d2.projects.dino.matcher import CostWeights, match
from weaksam_d2.projects.dino.outputs import DINOOutput, ImageTargets, LayerPrediction

from weaksam_d2 import add_weaksam_config
from weaksam_d2.retrain import QueryDrop, QueryDropSettings

CLASSES = 3
Dropped = dict[str, Tensor]  # bool (N, Q), by the suffix of a layer


def random_targets(*counts: int, seed: int = 0, classes: int = CLASSES) -> list[ImageTargets]:
    random = torch.Generator().manual_seed(seed)
    return [
        ImageTargets(
            torch.randint(classes, (count,), generator=random),
            torch.rand(count, 4, generator=random) * 0.4 + 0.2,
        )
        for count in counts
    ]


def random_output(
    images: int, queries: int, noised: int, *, layers: int = 3, classes: int = CLASSES
) -> DINOOutput:
    """Leaf tensors that want a gradient."""
    random = torch.Generator().manual_seed(1)

    def one(number: int) -> LayerPrediction:
        logits = 2 * torch.randn(images, number, classes, generator=random)
        boxes = torch.rand(images, number, 4, generator=random) * 0.5 + 0.1
        return LayerPrediction(logits.requires_grad_(), boxes.requires_grad_())

    return DINOOutput(
        [one(queries) for _ in range(layers)],
        one(queries),
        [one(noised) for _ in range(layers)] if noised else [],
    )


def predictions(output: DINOOutput) -> dict[str, LayerPrediction]:
    last = len(output.layers) - 1
    suffixes = ["" if i == last else f"_{i}" for i in range(last + 1)]
    found = dict(zip(suffixes, output.layers, strict=True))
    found |= {"_dn" + s: one for s, one in zip(suffixes, output.denoising, strict=False)}
    return {**found, "_enc": output.encoder}


def criterion_of(classes: int = CLASSES, **drop: Any) -> DINOCriterion:
    settings = QueryDropSettings(**{"enabled": bool(drop), **drop})
    return DINOCriterion(
        num_classes=classes, weights=LossWeights(), cost=CostWeights(), drop=QueryDrop(settings)
    )


def noised(targets: Sequence[ImageTargets], number: int = 4) -> Denoising:
    random = torch.Generator().manual_seed(2)
    options = {"label_noise": 0.5, "box_noise": 1.0, "generator": random}
    found = make_denoising(targets, num_classes=CLASSES, number=number, **options)
    assert found is not None
    return found


def objects_of(
    suffix: str, one: LayerPrediction, targets: Sequence[ImageTargets], denoising: Denoising | None
) -> Tensor:
    if suffix.startswith("_dn"):
        assert denoising is not None
        return denoising.targets
    with torch.no_grad():
        return match(one.logits, one.boxes, targets, [one.logits.shape[1]], CostWeights())


def corners(box: list[float]) -> tuple[float, float, float, float]:
    x, y, w, h = box
    return x - w / 2, y - h / 2, x + w / 2, y + h / 2


def slow_giou(a: list[float], b: list[float]) -> float:
    (ax1, ay1, ax2, ay2), (bx1, by1, bx2, by2) = corners(a), corners(b)
    inter = max(0.0, min(ax2, bx2) - max(ax1, bx1)) * max(0.0, min(ay2, by2) - max(ay1, by1))
    union = a[2] * a[3] + b[2] * b[3] - inter
    hull = (max(ax2, bx2) - min(ax1, bx1)) * (max(ay2, by2) - min(ay1, by1))
    return inter / union - (hull - union) / hull


def slow_focal(logits: list[float], positive: int | None) -> float:
    total = 0.0
    for column, logit in enumerate(logits):
        p = 1 / (1 + math.exp(-logit))
        if column == positive:
            total += -0.25 * (1 - p) ** 2 * math.log(p)
        else:
            total += -0.75 * p**2 * math.log(1 - p)
    return total


def slow_losses(
    output: DINOOutput,
    targets: Sequence[ImageTargets],
    denoising: Denoising | None,
    dropped: Dropped | None = None,
) -> dict[str, float]:
    """Query after query; ``dropped`` ones are left out, the divisor stays."""
    number = max(1, sum(len(one.classes) for one in targets))
    losses = {}
    for suffix, one in predictions(output).items():
        divisor = number
        if suffix.startswith("_dn"):
            assert denoising is not None
            divisor = number * denoising.groups
        objects = objects_of(suffix, one, targets, denoising)
        sums = [0.0, 0.0, 0.0]
        for image, row in enumerate(objects.tolist()):
            for query, number_of in enumerate(row):
                if number_of == -2 or (dropped and dropped[suffix][image, query]):
                    continue
                logits = one.logits[image, query].tolist()
                if number_of < 0:
                    sums[0] += slow_focal(logits, None)
                    continue
                box, true = one.boxes[image, query].tolist(), targets[image].boxes[number_of]
                sums[0] += slow_focal(logits, int(targets[image].classes[number_of]))
                sums[1] += sum(abs(a - b) for a, b in zip(box, true.tolist(), strict=True))
                sums[2] += 1 - slow_giou(box, true.tolist())
        for name, total, weight in zip(("cls", "l1", "giou"), sums, (1, 5, 2), strict=True):
            losses[f"loss_{name}{suffix}"] = weight * total / divisor
    return losses


def assert_same(losses: dict[str, Tensor], slow: dict[str, float]) -> None:
    assert set(losses) == set(slow)
    for name, value in losses.items():
        assert value.item() == pytest.approx(slow[name], rel=2e-6, abs=1e-6), name


def all_but(*suffixes: str, like: DINOOutput) -> Dropped:
    return {
        s: torch.zeros(one.logits.shape[:2], dtype=torch.bool)
        for s, one in predictions(like).items()
        if s not in suffixes
    }


def slow_drop(
    output: DINOOutput, targets: Sequence[ImageTargets], denoising: Denoising | None
) -> Dropped:
    """Of the matched queries of each layer the tenth with the highest cross entropies."""
    dropped = all_but(like=output)
    for suffix, one in predictions(output).items():
        if suffix.startswith("_dn"):
            continue
        objects = objects_of(suffix, one, targets, denoising)
        ranked = []
        for image, query in (objects >= 0).nonzero().tolist():
            positive = int(targets[image].classes[objects[image, query]])
            probabilities = one.logits[image, query].sigmoid().double().tolist()
            loss = sum(
                -math.log(p if c == positive else 1 - p) for c, p in enumerate(probabilities)
            )
            ranked.append((loss, image, query))
        ranked.sort(reverse=True)
        for _, image, query in ranked[: len(ranked) // 10]:
            dropped[suffix][image, query] = True
    return dropped


@pytest.mark.parametrize("counts", [(3, 1), (2, 0), (7, 9)])
def test_losses_are_those_of_a_loop(counts: tuple[int, ...]) -> None:
    """The last case has more objects than the 6 queries: the others teach nothing."""
    targets = random_targets(*counts)
    denoising = noised(targets)
    output = random_output(2, 6, denoising.targets.shape[1])
    losses = criterion_of()(output, targets, denoising)
    assert len(losses) == 3 * (3 + 1 + 3)
    assert_same(losses, slow_losses(output, targets, denoising))


def test_one_class_is_enough() -> None:
    targets = random_targets(2, 1, classes=1)
    output = random_output(2, 5, 0, classes=1)
    losses = criterion_of(classes=1)(output, targets, None)
    assert_same(losses, slow_losses(output, targets, None))


def test_query_drop_takes_out_the_rows_of_the_worst_tenth_of_each_layer() -> None:
    targets = random_targets(12, 10)
    denoising = noised(targets)
    output = random_output(2, 15, denoising.targets.shape[1])
    dropped = slow_drop(output, targets, denoising)
    slow = slow_losses(output, targets, denoising, dropped)
    full = slow_losses(output, targets, denoising)
    assert_same(criterion_of(percentile=90)(output, targets, denoising), slow)
    for suffix, rows in dropped.items():
        gone = 0 if suffix.startswith("_dn") else 2
        assert rows.sum() == gone
        for name in ("loss_cls", "loss_l1", "loss_giou"):
            assert (slow[name + suffix] < full[name + suffix]) == bool(gone)


def test_a_dropped_query_gets_no_gradient_and_the_others_keep_theirs() -> None:
    targets = random_targets(12, 10)
    gradients = []
    for criterion in (criterion_of(), criterion_of(percentile=90)):
        output = random_output(2, 15, 0)
        sum(criterion(output, targets, None).values()).backward()
        gradients.append(
            [(one.logits.grad, one.boxes.grad) for one in predictions(output).values()]
        )
    dropped = slow_drop(output, targets, None)
    for full, kept, gone in zip(*gradients, dropped.values(), strict=True):
        for before, after in zip(full, kept, strict=True):
            assert (before[gone] != 0).any() and (after[gone] == 0).all()
            assert after[~gone].equal(before[~gone])


def test_the_encoder_and_denoising_drop_as_their_keys_say() -> None:
    targets = random_targets(12, 10)
    denoising = noised(targets)
    output = random_output(2, 15, denoising.targets.shape[1])
    full = criterion_of()(output, targets, denoising)
    for encoder, dn in ((True, True), (False, False), (False, True)):
        found = criterion_of(encoder=encoder, denoising=dn)(output, targets, denoising)
        changed = {name for name in full if found[name] != full[name]}
        assert ("loss_cls_enc" in changed) == encoder
        assert {n for n in changed if "_dn" in n} == (
            {n for n in full if "_dn" in n} if dn else set()
        )
        assert {"loss_cls", "loss_l1_0", "loss_giou_1"} <= changed


def test_background_is_ranked_where_it_may_drop() -> None:
    targets, output = random_targets(2, 1), random_output(2, 20, 0)
    full = criterion_of()(output, targets, None)
    found = criterion_of(group="things+background")(output, targets, None)
    for suffix, one in predictions(output).items():
        objects = objects_of(suffix, one, targets, None)
        rows = [(image, query) for image in (0, 1) for query in range(20)]
        loss = torch.zeros(2, 20)
        for image, query in rows:
            number, logits = int(objects[image, query]), one.logits[image, query].tolist()
            positive = int(targets[image].classes[number]) if number >= 0 else None
            right = [1 / (1 + math.exp(z if c != positive else -z)) for c, z in enumerate(logits)]
            loss[image, query] = -sum(math.log(p) for p in right)
        matched = objects >= 0
        for group in (matched, ~matched):
            low, high = loss[group].min(), loss[group].max()
            loss[group] = (loss[group] - low) / (high - low)
        limit = loss.flatten().sort(descending=True).values[4]  # a tenth of 40
        dropped = {suffix: loss > limit}
        assert dropped[suffix].sum() >= 2
        left = {**all_but(suffix, like=output), **dropped}
        slow = slow_losses(output, targets, None, left)
        assert found[f"loss_cls{suffix}"].item() == pytest.approx(
            slow[f"loss_cls{suffix}"], rel=1e-5
        )
        assert found[f"loss_cls{suffix}"] < full[f"loss_cls{suffix}"]


def test_kept_objects_may_be_the_divisor() -> None:
    """22 objects, 2 of their queries dropped: sums of a layer are divided by 20."""
    targets = random_targets(12, 10)
    denoising = noised(targets)
    output = random_output(2, 15, denoising.targets.shape[1])
    total = criterion_of(norm="total")(output, targets, denoising)
    kept = criterion_of(norm="kept")(output, targets, denoising)
    for name, value in total.items():
        factor = 1.0 if "_dn" in name else 22 / 20
        assert kept[name].item() == pytest.approx(value.item() * factor, rel=1e-5)


def test_before_its_start_dropping_changes_nothing_and_is_logged() -> None:
    targets, output = random_targets(12, 10), random_output(2, 15, 0)
    full = criterion_of()(output, targets, None)
    criterion = criterion_of(start_iter=5)
    with EventStorage(4) as storage:
        assert criterion(output, targets, None) == full
        assert storage.latest()["query_drop/active"][0] == 0.0
    with EventStorage(5) as storage:
        assert criterion(output, targets, None)["loss_cls"] < full["loss_cls"]
        assert storage.latest()["query_drop/active"][0] == 1.0


def test_images_without_objects_teach_background_only() -> None:
    targets, output = random_targets(0, 0), random_output(2, 5, 0)
    losses = criterion_of(percentile=90)(output, targets, None)
    assert_same(losses, slow_losses(output, targets, None))
    sum(losses.values()).backward()
    for one in predictions(output).values():
        assert (one.logits.grad != 0).all() and (one.boxes.grad == 0).all()


def test_every_prediction_gets_a_gradient() -> None:
    targets = random_targets(3, 1)
    denoising = noised(targets)
    output = random_output(2, 6, denoising.targets.shape[1])
    sum(criterion_of()(output, targets, denoising).values()).backward()
    for suffix, one in predictions(output).items():
        objects = objects_of(suffix, one, targets, denoising)
        assert ((one.boxes.grad != 0).any(dim=-1) == (objects >= 0)).all()
        assert ((one.logits.grad != 0).any(dim=-1) == (objects > -2)).all()


def test_half_precision_predictions_have_float32_losses() -> None:
    """The sum over 500 queries of a loss of 1000 is more than float16 can hold."""
    targets, output = random_targets(3, 1), random_output(2, 500, 0)
    half = [
        LayerPrediction(one.logits.detach().half() * 300, one.boxes.detach().half())
        for one in (*output.layers, output.encoder)
    ]
    losses = criterion_of(percentile=90)(DINOOutput(half[:-1], half[-1]), targets, None)
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    assert losses["loss_cls"] > 65504


def test_denoising_and_its_predictions_come_together() -> None:
    targets = random_targets(3, 1)
    with pytest.raises(ValueError, match="give both or neither"):
        criterion_of()(random_output(2, 6, 0), targets, noised(targets))
    with pytest.raises(ValueError, match="give both or neither"):
        criterion_of()(random_output(2, 6, 8), targets, None)


def test_the_config_gives_the_weights() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    add_dino_config(cfg)
    criterion = DINOCriterion.from_config(cfg)
    assert criterion.weights == LossWeights(1.0, 5.0, 2.0)
    assert criterion.cost == CostWeights(2.0, 5.0, 2.0, 0.25, 2.0)
    assert criterion.num_classes == 80 and not criterion.drop.settings.enabled
    assert criterion.denoises
    cfg.MODEL.QUERY_DROP.ENABLED, cfg.MODEL.DINO.GIOU_WEIGHT = True, 3.0
    cfg.MODEL.DINO.DN_NUMBER = 0
    criterion = DINOCriterion.from_config(cfg)
    assert criterion.weights.giou == 3.0 and criterion.drop.settings.enabled
    assert not criterion.denoises
