"""Weakly supervised heads: scores to losses in a few batched operations, against loops.

Example:
    python benchmarks/wsod.py --quick --json output/bench/wsod.json

The loops are the way of released code, in our words: for each image and each of its classes the
scores are ranked and the candidates walked down one by one, each compared with the better ones;
then each seed is compared with all proposals, and each proposal is given its target.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _harness import Comparison, run
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.nn import functional as F

import weaksam_d2.backbones
import weaksam_d2.wsod  # noqa: F401  (registers the classes)
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.wsod import PCL, WSODROIHeads

IMAGE_SIDE = 600
Losses = dict[str, Tensor]


def make_boxes(count: int, generator: torch.Generator, *, side: int = IMAGE_SIDE) -> Tensor:
    """Proposals as generators give them: two thirds around 12 objects, the rest anywhere."""
    low = torch.rand(12, 2, generator=generator) * side * 0.6
    objects = torch.cat([low, low + side * (0.1 + 0.3 * torch.rand(12, 2, generator=generator))], 1)
    near = count * 2 // 3
    shake = torch.randn(near, 4, generator=generator) * side * 0.03
    around = objects[torch.randint(0, 12, (near,), generator=generator)] + shake
    low = torch.rand(count - near, 2, generator=generator) * side * 0.8
    size = side * (0.04 + 0.4 * torch.rand(count - near, 2, generator=generator))
    boxes = torch.cat([around, torch.cat([low, low + size], 1)])
    low = boxes[:, :2].clamp(0, side - 21.0)
    return torch.cat([low, torch.maximum(boxes[:, 2:], low + 20).clamp(max=side)], 1)


def make_proposals(boxes: Tensor, side: int) -> Instances:
    logits = -torch.arange(len(boxes), dtype=torch.float32)
    return Instances((side, side), proposal_boxes=Boxes(boxes), objectness_logits=logits)


def config(name: str, num_classes: int) -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.merge_from_file(get_config_file(f"PascalVOC-Detection/{name}_V_16_1x.yaml"))
    cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = num_classes
    cfg.MODEL.WSOD.DROPOUT, cfg.MODEL.WSOD.DROPBLOCK.METHOD = 0.0, ""
    return cfg


class HeadCase:
    """The output layers of a head over given region features (the fc layers are left out)."""

    def __init__(self, name: str, *, num_classes: int, tags: int, count: int, images: int) -> None:
        generator = torch.Generator().manual_seed(0)
        cfg = config(name, num_classes)
        cfg.MODEL.DEVICE, cfg.MODEL.WSOD.FC_DIM, cfg.MODEL.WSOD.NUM_FC = "cpu", 64, 1
        cfg.MODEL.WSOD.INIT_STD = 0.5
        torch.manual_seed(0)
        shape = {"plain5": weaksam_d2.backbones.VGG16().output_shape()["plain5"]}
        self.heads = WSODROIHeads(cfg, shape).train()
        self.boxes = [make_boxes(count, generator) for _ in range(images)]
        self.features = torch.randn(count * images, 64, generator=generator).requires_grad_()
        self.labels = [
            torch.randperm(num_classes, generator=generator)[:tags].sort().values
            for _ in range(images)
        ]

    def ours(self) -> tuple[Losses, Tensor]:
        proposals = [make_proposals(boxes, IMAGE_SIDE) for boxes in self.boxes]
        return self._backward(self.heads._losses(self.features, proposals, list(self.labels)))

    def theirs(self) -> tuple[Losses, Tensor]:
        return self._backward(loop_losses(self.heads, self.features, self.boxes, self.labels))

    def _backward(self, losses: Losses) -> tuple[Losses, Tensor]:
        self.heads.zero_grad()
        self.features.grad = None
        torch.stack(list(losses.values())).sum().backward()
        assert self.features.grad is not None
        return {k: v.detach() for k, v in losses.items()}, self.features.grad.clone()


def same(ours: tuple[Losses, Tensor], theirs: tuple[Losses, Tensor]) -> None:
    assert ours[0].keys() == theirs[0].keys()
    for name, loss in ours[0].items():
        torch.testing.assert_close(loss, theirs[0][name], atol=1e-5, rtol=1e-5, msg=name)
    torch.testing.assert_close(ours[1], theirs[1], atol=1e-5, rtol=1e-3)


def loop_losses(
    heads: WSODROIHeads, features: Tensor, boxes: list[Tensor], labels: list[Tensor]
) -> Losses:
    """Every loss of a batch, image by image, class by class, box by box."""
    totals: Losses = {}
    for i, (image_boxes, classes) in enumerate(zip(boxes, labels, strict=True)):
        start = i * len(image_boxes)
        rows = features[start : start + len(image_boxes)]
        found = loop_image(heads, rows, image_boxes, classes.tolist())
        for name, loss in found.items():
            totals[name] = totals.get(name, torch.zeros(())) + loss / len(boxes)
    return totals


def loop_image(heads: WSODROIHeads, features: Tensor, boxes: Tensor, classes: list[int]) -> Losses:
    logits = heads.mil.classification(features), heads.mil.detection(features)
    scores = logits[0].softmax(1) * logits[1].softmax(0)
    losses = {"loss_mil": loop_image_loss(scores, classes, heads.mil.loss_reduce)}
    source = scores.detach()
    for number, branch in enumerate(heads._branches(), start=1):
        weight = heads.first_branch_weight if number == 1 else 1.0
        logit = branch(features)
        seeds = SEEDS[type(heads.seed_miner).__name__](boxes, source, classes)
        rule: Any = heads.refinement_loss
        targets = loop_targets(boxes, seeds, heads.num_classes, rule.ignore_iou)
        loss = loop_cluster_loss if isinstance(rule, PCL) else loop_class_loss
        losses[f"loss_refine_{number}"] = weight * loss(logit, targets, rule.log_eps)
        deltas = branch.box_deltas(features)
        if deltas is not None:
            losses[f"loss_box_reg_{number}"] = weight * loop_box_loss(
                deltas, boxes, seeds, targets, heads.num_classes
            )
        source = logit.detach().softmax(1)[:, : heads.num_classes]
    return losses


def loop_image_loss(scores: Tensor, classes: list[int], reduce: str) -> Tensor:
    total = torch.zeros(())
    for c in range(scores.shape[1]):
        phi = scores[:, c].sum().clamp(1e-6, 1 - 1e-6)
        total = total - (phi.log() if c in classes else (1 - phi).log())
    return total / scores.shape[1] if reduce == "mean" else total


def overlap(box: Tensor, boxes: Tensor) -> Tensor:
    low, high = torch.maximum(box[:2], boxes[:, :2]), torch.minimum(box[2:], boxes[:, 2:])
    side = (high - low).clamp(min=0)
    inter = side[:, 0] * side[:, 1]
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return inter / ((box[2] - box[0]) * (box[3] - box[1]) + area - inter)


Seed = tuple[Tensor, int, float]


def loop_mist(boxes: Tensor, scores: Tensor, classes: list[int]) -> list[Seed]:
    seeds: list[Seed] = []
    for c in classes:
        column = scores[:, c]
        order = column.argsort(descending=True, stable=True)[: max(1, len(boxes) * 15 // 100)]
        ranked = boxes[order]
        for i in range(len(order)):
            if i == 0 or overlap(ranked[i], ranked[:i]).max().item() < 0.2:
                seeds.append((ranked[i], c, column[order[i]].item()))
    return seeds


def loop_near_maximum(boxes: Tensor, scores: Tensor, classes: list[int]) -> list[Seed]:
    found: list[Seed] = []
    for c in classes:
        column = scores[:, c]
        limit = 0.9 * column.max()
        for r in column.argsort(descending=True, stable=True):
            if column[r] < limit:
                break
            found.append((boxes[r], c, column[r].item()))
    order = sorted(range(len(found)), key=lambda i: -found[i][2])
    kept: list[int] = []
    for i in order:
        better = [found[j][0] for j in kept]
        if not better or overlap(found[i][0], torch.stack(better)).max().item() <= 0.5:
            kept.append(i)
    return [found[i] for i in sorted(kept)]


def loop_graph_centers(boxes: Tensor, scores: Tensor, classes: list[int]) -> list[Seed]:
    seeds: list[Seed] = []
    for c in classes:
        column = scores[:, c].double()
        centers = torch.linspace(0, 1, 3, dtype=torch.float64)
        centers = column.min() + (column.max() - column.min()) * centers
        owner = torch.full((len(column),), -1)
        for _ in range(100):
            before, distance = owner, (column[:, None] - centers).abs()
            owner = 2 - distance.flip(1).argmin(dim=1)  # of two equally near ones the upper
            for k in range(3):
                if (owner == k).any():
                    centers[k] = column[owner == k].mean()
            if bool((owner == before).all()):
                break
        nodes = (owner == 2).nonzero()[:, 0]
        near = torch.stack([overlap(boxes[r], boxes[nodes]) > 0.4 for r in nodes])
        alive, found = torch.ones(len(nodes), dtype=torch.bool), []
        while True:
            degree = (near & alive).sum(1).masked_fill(~alive, -1)
            most = degree == degree.max()
            best = int(scores[nodes, c].masked_fill(~most, -1).argmax())
            cluster = near[best] & alive
            found.append((nodes[best], scores[nodes[cluster], c].max().item()))
            alive &= ~cluster
            if alive.sum().item() <= 5:
                break
        found.sort(key=lambda f: -f[1])
        seeds += [(boxes[r], c, score) for r, score in found[:5]]
    return seeds


SEEDS: dict[str, Callable[[Tensor, Tensor, list[int]], list[Seed]]] = {
    "MIST": loop_mist,
    "NearMaximum": loop_near_maximum,
    "GraphCenters": loop_graph_centers,
}
Targets = tuple[Tensor, Tensor, Tensor]  # label, weight and seed of each proposal


def loop_targets(boxes: Tensor, seeds: list[Seed], background: int, ignore: float) -> Targets:
    best = torch.full((len(boxes),), -1.0)
    label = torch.full((len(boxes),), background)
    weight, owner = torch.zeros(len(boxes)), torch.zeros(len(boxes), dtype=torch.int64)
    for s, (box, c, score) in enumerate(seeds):
        iou = overlap(box, boxes)
        better = iou > best
        best[better], owner[better], weight[better] = iou[better], s, score
        label[better] = torch.where(iou[better] >= 0.5, c, background)
    weight[best < ignore] = 0
    return label, weight, owner


def loop_class_loss(logits: Tensor, targets: Targets, log_eps: float) -> Tensor:
    label, weight, _ = targets
    p = logits.softmax(1)
    total = torch.zeros(())
    for c in label.unique().tolist():
        rows = (label == c).nonzero()[:, 0]
        total = total - (weight[rows] * (p[rows, c] + log_eps).log()).sum()
    return total / len(logits)


def loop_cluster_loss(logits: Tensor, targets: Targets, log_eps: float) -> Tensor:
    label, weight, owner = targets
    p, background = logits.softmax(1), logits.shape[1] - 1
    rows = (label == background).nonzero()[:, 0]
    total = -(weight[rows] * (p[rows, background] + log_eps).log()).sum()
    for s in owner.unique().tolist():
        rows = ((owner == s) & (label != background)).nonzero()[:, 0]
        if len(rows):
            mean = p[rows, label[rows[0]]].mean()
            total = total - weight[rows].sum() * (mean + log_eps).log()
    return total / len(logits)


def loop_box_loss(
    deltas: Tensor, boxes: Tensor, seeds: list[Seed], targets: Targets, background: int
) -> Tensor:
    label, weight, owner = targets
    total = torch.zeros(())
    for s, (box, c, _) in enumerate(seeds):
        rows = ((owner == s) & (label != background)).nonzero()[:, 0]
        if len(rows):
            own = boxes[rows]
            side, target_side = own[:, 2:] - own[:, :2], (box[2:] - box[:2]).expand(len(rows), -1)
            shift = box[:2] - own[:, :2] + 0.5 * (target_side - side)
            goal = torch.cat([10 * shift / side, 5 * (target_side / side).log()], 1)
            cost = F.smooth_l1_loss(deltas[rows, c], goal, reduction="none").sum(1)
            total = total + (weight[rows] * cost).sum()
    return total / len(boxes)


class Step:
    """A whole training step (losses and gradients) of VGG16, or what it has below the heads."""

    def __init__(self, count: int, side: int, *, small: bool) -> None:
        cfg = config("mist", 20)
        if small:
            cfg.MODEL.WSOD.FC_DIM = 1024
        generator = torch.Generator().manual_seed(1)
        self.model = build_model(cfg).train()
        boxes = make_boxes(count, generator, side=side)
        self.sample = {
            "image_id": "a",
            "image": torch.randint(0, 256, (3, side, side), dtype=torch.uint8),
            "proposals": make_proposals(boxes, side),
            "image_labels": torch.tensor([3, 7]),
        }

    def whole(self) -> Tensor:
        losses = self.model([self.sample])
        return self._finish(torch.stack(list(losses.values())).sum())

    def below(self) -> Tensor:
        model: Any = self.model
        images = model.preprocess_image([self.sample])
        maps = model.backbone(images.tensor)
        rows = model.roi_heads.region_features(maps, [self.sample["proposals"].to(model.device)])
        return self._finish(rows.square().mean())

    def _finish(self, loss: Tensor) -> Tensor:
        self.model.zero_grad()
        loss.backward()
        return loss.detach().cpu()


def comparisons(quick: bool) -> Iterator[Comparison[Any]]:
    images, repeats = (1, 3) if quick else (2, 5)
    heads = (("mist", 20, 20, 5.0), ("mist", 80, 80, 20.0), ("mist", 20, 2, 1.0))
    others = ((name, 20, tags, 1.0) for name in ("oicr", "pcl") for tags in (20, 2))
    for name, classes, tags, target in (*heads, *others):
        case = HeadCase(name, num_classes=classes, tags=tags, count=2000, images=images)
        yield Comparison(
            stage="wsod",
            against=f"{name} head, loops over images, classes and boxes",
            work=f"{images} x 2000 proposals, {tags} of {classes} classes tagged, with gradients",
            target=target,
            ours=case.ours,
            theirs=case.theirs,
            check=same,
            repeats=repeats,
        )
    side = 128 if quick else 480
    many = Step(2001, side, small=quick)
    step = f"MIST step on VGG16 with layers of {1024 if quick else 4096}, {side} pixels"
    yield Comparison(
        stage="wsod",
        against="backbone, RoI pooling and box head alone (ratio 0.8: within 1.25 times)",
        work=f"{step}, 2001 proposals",
        target=1 / 1.25,
        ours=many.whole,
        theirs=many.below,
        check=finite,
        repeats=repeats,
    )
    few = Step(213, side, small=quick)
    yield Comparison(
        stage="wsod",
        against="the same step with 2001 proposals",
        work=f"{step}, 213 proposals",
        target=1.0,
        ours=few.whole,
        theirs=many.whole,
        check=finite,
        repeats=repeats,
    )


def finite(ours: Tensor, theirs: Tensor) -> None:
    assert all(math.isfinite(float(loss)) for loss in (ours, theirs))


if __name__ == "__main__":
    run(comparisons, __doc__)
