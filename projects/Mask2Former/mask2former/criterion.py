"""Losses of all predictions of a step, and which queries are left out of them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.projects.point_rend.point_features import (
    get_uncertain_point_coords_with_randomness,
)
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.retrain import QueryDrop, QueryDropSettings

from .mask_losses import bce_rows, class_loss, dice_rows
from .matcher import MaskMatcher, sample_masks
from .outputs import LayerPrediction, MaskTargets

__all__ = ["MaskCriterion"]


@dataclass(frozen=True)
class _Rows:
    """Losses of one layer before they are summed: class (N, Q), masks and dice (M,)."""

    classes: Tensor
    matched: Tensor
    """bool (N, Q)."""
    place: tuple[Tensor, Tensor]
    """Image and query of each of the M matched masks."""
    mask: Tensor
    dice: Tensor


class MaskCriterion(nn.Module):
    """Weighted losses ``loss_ce``, ``loss_mask`` and ``loss_dice`` of each layer's prediction.

    The last layer's names are bare, those before it end with ``_0`` (the initial prediction) and
    so on. Masks are compared at points, most of them where the prediction is least certain; sums
    over masks are divided by the number of objects, averaged over ranks, at least 1. A query that
    query drop leaves out adds to none of the three losses and does not become background.

    Source: Mask2Former, Sec. 3.3; WeakSAM, Sec. 3.4; extras.md, Sec. 2.2.
    """

    @configurable
    def __init__(
        self,
        *,
        num_classes: int,
        matcher: MaskMatcher,
        drop: QueryDrop,
        num_points: int = 12544,
        oversample_ratio: float = 3.0,
        importance_ratio: float = 0.75,
        cls_weight: float = 2.0,
        mask_weight: float = 5.0,
        dice_weight: float = 5.0,
        no_object_weight: float = 0.1,
    ) -> None:
        """Take the number of classes C (the label of "no object"), parts and weights."""
        super().__init__()
        self.num_classes = num_classes
        self.matcher = matcher
        self.drop = drop
        self.num_points = num_points
        self.oversample_ratio = oversample_ratio
        self.importance_ratio = importance_ratio
        self.weights = {"ce": cls_weight, "mask": mask_weight, "dice": dice_weight}
        self.no_object_weight = no_object_weight

    @classmethod
    def from_config(cls, cfg: Any, *, num_classes: int) -> dict[str, Any]:
        """Read ``MODEL.MASK2FORMER`` and ``MODEL.QUERY_DROP``."""
        node = cfg.MODEL.MASK2FORMER
        return {
            "num_classes": num_classes,
            "matcher": MaskMatcher(cfg),
            "drop": QueryDrop(QueryDropSettings.from_config(cfg)),
            "num_points": node.NUM_POINTS,
            "oversample_ratio": node.OVERSAMPLE_RATIO,
            "importance_ratio": node.IMPORTANCE_RATIO,
            "cls_weight": node.CLS_WEIGHT,
            "mask_weight": node.MASK_WEIGHT,
            "dice_weight": node.DICE_WEIGHT,
            "no_object_weight": node.NO_OBJECT_WEIGHT,
        }

    def forward(
        self, predictions: Sequence[LayerPrediction], targets: list[MaskTargets]
    ) -> dict[str, Tensor]:
        """Losses of all layers, the last one's names first; masks of all targets have one size.

        Raises:
            FloatingPointError: query drop is on and a class loss is not finite.
        """
        device = predictions[0].logits.device
        num_masks = _mean_count(sum(len(one.classes) for one in targets), device)
        with torch.autocast(device.type, enabled=False):
            rows = [self._rows(one, targets) for one in predictions]
            kept = self.drop([r.classes.detach() for r in rows], [r.matched for r in rows])
            losses: dict[str, Tensor] = {}
            last = len(rows) - 1
            for number in (last, *range(last)):
                suffix = "" if number == last else f"_{number}"
                found = self._sums(rows[number], kept[number], num_masks)
                losses |= {f"loss_{name}{suffix}": loss for name, loss in found.items()}
        return losses

    def _rows(self, prediction: LayerPrediction, targets: list[MaskTargets]) -> _Rows:
        pairs = self.matcher(prediction, targets)
        logits = prediction.logits.float()
        labels = torch.full(logits.shape[:2], self.num_classes, device=logits.device)
        for image, (queries, objects) in enumerate(pairs):
            labels[image, queries] = targets[image].classes[objects]
        queries = torch.cat([q for q, _ in pairs])
        images = torch.cat([torch.full_like(q, image) for image, (q, _) in enumerate(pairs)])
        classes = F.cross_entropy(logits.transpose(1, 2), labels, reduction="none")
        mask, dice = self._mask_rows(prediction.masks[images, queries].float(), targets, pairs)
        return _Rows(classes, labels != self.num_classes, (images, queries), mask, dice)

    def _mask_rows(
        self, logits: Tensor, targets: list[MaskTargets], pairs: list[tuple[Tensor, Tensor]]
    ) -> tuple[Tensor, Tensor]:
        """Cross entropy and dice (M,) of matched masks (M, h, w)."""
        if not len(logits):
            empty = logits.flatten(1).sum(dim=1)  # (0,), attached to the graph for other ranks
            return empty, empty
        matched = [(one, objects) for one, (_, objects) in zip(targets, pairs, strict=True)]
        truth = torch.cat([one.masks[objects] for one, objects in matched])
        with torch.no_grad():
            points = get_uncertain_point_coords_with_randomness(
                logits[:, None],
                lambda values: -values.abs(),
                self.num_points,
                self.oversample_ratio,
                self.importance_ratio,
            )
            wanted = sample_masks(truth, points)
            weight = None
            if any(one.valid is not None for one in targets):
                maps = [_valid(one).expand(len(objects), -1, -1) for one, objects in matched]
                weight = sample_masks(torch.cat(maps), points)
        found = sample_masks(logits, points)
        return bce_rows(found, wanted, weight), dice_rows(found, wanted, weight)

    def _sums(self, rows: _Rows, keep: Tensor, num_masks: Tensor) -> dict[str, Tensor]:
        norm = self.drop.settings.norm
        kept = keep[rows.place]
        if norm == "kept" and len(kept):
            num_masks = (num_masks * kept.float().mean()).clamp(min=1e-6)
        found = {
            "ce": class_loss(
                rows.classes,
                rows.matched,
                keep,
                no_object_weight=self.no_object_weight,
                norm=norm,
            )
        }
        for name, loss in (("mask", rows.mask), ("dice", rows.dice)):
            found[name] = torch.where(kept, loss, torch.zeros_like(loss)).sum() / num_masks
        return {name: self.weights[name] * loss for name, loss in found.items()}


def _valid(target: MaskTargets) -> Tensor:
    if target.valid is not None:
        return target.valid[None]
    return target.masks.new_ones(target.masks.shape[-2:])[None]


def _mean_count(count: int, device: torch.device) -> Tensor:
    """Number of objects of a rank, averaged over ranks, at least 1; every rank takes part."""
    total = torch.tensor(float(count), device=device)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return (total / comm.get_world_size()).clamp(min=1)
