"""The losses of DINO: every decoder layer, the encoder and the denoising queries."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import box_convert, generalized_box_iou_loss, sigmoid_focal_loss

from weaksam_d2.ops.drop import query_rank_loss
from weaksam_d2.retrain import QueryDrop, QueryDropSettings

from .denoising import EMPTY_SLOT, Denoising
from .matcher import CostWeights, match
from .outputs import DINOOutput, ImageTargets, LayerPrediction

__all__ = ["DINOCriterion", "LossWeights"]


@dataclass(frozen=True)
class LossWeights:
    """Factors of the three losses, the same for every layer."""

    classification: float = 1.0
    l1: float = 5.0
    giou: float = 2.0


@dataclass(frozen=True)
class _Rows:
    """Losses and matches of the queries of all layers side by side.

    ``classification``, ``l1``, ``giou``: float32 (N, S), S queries in all. ``rank``: (N, S), what
    query drop ranks by. ``objects``: int64 (N, S), negative: none. ``sizes``: queries of each of
    ``names``, in the order of S.
    """

    classification: Tensor
    l1: Tensor
    giou: Tensor
    rank: Tensor
    objects: Tensor
    sizes: list[int]
    names: list[str]


class DINOCriterion(nn.Module):
    """Compares the queries with the objects that they are matched to.

    A matched query has three losses: focal over all classes, L1 and 1 - GIoU of its box; any other
    query has the focal loss of background. Sums of a layer are divided by the number of objects
    (mean over ranks, at least 1), those of denoising queries also by the number of groups. With
    query drop some rows leave all three losses (weaksam.md, Sec. 7.3).

    Source: DINO, Sec. 3; extras.md, Sec. 1.3.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        weights: LossWeights,
        cost: CostWeights,
        drop: QueryDrop,
        alpha: float = 0.25,
        gamma: float = 2.0,
        denoises: bool = False,
    ) -> None:
        """Make a criterion.

        Args:
            num_classes: C.
            weights: factors of the losses.
            cost: what queries and objects are matched by.
            drop: which queries are left out.
            alpha: of the focal loss.
            gamma: of the focal loss.
            denoises: the losses of denoising queries are there in every step, 0 if the batch has
                no object: another rank's may have one, and all need the same names.
        """
        super().__init__()
        self.num_classes = num_classes
        self.weights, self.cost, self.drop = weights, cost, drop
        self.alpha, self.gamma = alpha, gamma
        self.denoises = denoises

    @classmethod
    def from_config(cls, cfg: Any) -> "DINOCriterion":
        """Read ``MODEL.DINO``, ``MODEL.QUERY_DROP`` and ``MODEL.ROI_HEADS.NUM_CLASSES``."""
        node = cfg.MODEL.DINO
        return cls(
            num_classes=cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            weights=LossWeights(node.CLS_WEIGHT, node.L1_WEIGHT, node.GIOU_WEIGHT),
            cost=CostWeights.from_config(cfg),
            drop=QueryDrop(QueryDropSettings.from_config(cfg)),
            alpha=node.FOCAL_ALPHA,
            gamma=node.FOCAL_GAMMA,
            denoises=node.DN_NUMBER > 0,
        )

    def forward(
        self, output: DINOOutput, targets: Sequence[ImageTargets], denoising: Denoising | None
    ) -> dict[str, Tensor]:
        """Return the weighted losses, scalars that are attached to every prediction.

        ``loss_cls``, ``loss_l1`` and ``loss_giou`` belong to the last layer; with ``_0``, ``_1``, …
        to those before it, with ``_enc`` to the encoder, with ``_dn``, ``_dn_0``, … to the
        denoising queries of the same layers.

        Raises:
            ValueError: denoising queries without predictions, or the reverse.
            FloatingPointError: a matching cost is not finite.
        """
        if (denoising is None) != (not output.denoising):
            raise ValueError(
                f"the output has {len(output.denoising)} layers of denoising queries, and "
                f"denoising is {'not None' if denoising is not None else 'None'}: give both or "
                "neither"
            )
        rows = self._rows(output, targets, denoising)
        keep = self._keep(rows)
        return self._sums(rows, keep, self._normalizers(rows, keep, targets, denoising))

    def _rows(
        self, output: DINOOutput, targets: Sequence[ImageTargets], denoising: Denoising | None
    ) -> _Rows:
        """Rows of the denoising queries, the encoder, and the layers, in this order."""
        named = _named_predictions(output, denoises=self.denoises)
        logits = torch.cat([one.logits.float() for _, one in named], dim=1)
        boxes = torch.cat([one.boxes.float() for _, one in named], dim=1)
        sizes = [one.logits.shape[1] for _, one in named]
        apart = sum(name.startswith("_dn") for name, _ in named)
        first = sum(sizes[:apart])
        objects = match(logits[:, first:], boxes[:, first:], targets, sizes[apart:], self.cost)
        if denoising is not None:
            objects = torch.cat([denoising.targets.repeat(1, apart), objects], dim=1)
        classes, true = _targets_of(objects, targets, background=self.num_classes)
        one_hot = classes[..., None] == torch.arange(self.num_classes, device=classes.device)
        focal = sigmoid_focal_loss(
            logits, one_hot.to(logits.dtype), alpha=self.alpha, gamma=self.gamma
        )
        return _Rows(
            classification=focal.sum(dim=-1),
            l1=(boxes - true).abs().sum(dim=-1),
            # The usual 1e-7 is a part of the area of a small box, of an image's sides.
            giou=generalized_box_iou_loss(_corners(boxes), _corners(true), eps=1e-12),
            rank=self._rank(logits, classes),
            objects=objects,
            sizes=sizes,
            names=[name for name, _ in named],
        )

    @torch.no_grad()
    def _rank(self, logits: Tensor, classes: Tensor) -> Tensor:
        """What query drop ranks by, (N, S); 0 of queries that it does not rank."""
        settings = self.drop.settings
        rank = torch.zeros_like(classes, dtype=torch.float32)
        if not settings.enabled:
            return rank
        # Of thousands of queries some dozens are matched: the others only where they are ranked.
        ranked = (classes < self.num_classes) | (settings.ranked_among != "fg")
        rank[ranked] = query_rank_loss(
            logits[ranked],
            classes[ranked],
            kind=settings.rank,
            alpha=self.alpha,
            gamma=self.gamma,
        )
        return rank

    @torch.no_grad()
    def _keep(self, rows: _Rows) -> Tensor:
        """Which rows (N, S) stay in the losses, bool; one decision for all layers of a step."""
        keep = [torch.ones_like(part, dtype=torch.bool) for part in _split(rows, rows.objects)]
        settings = self.drop.settings
        if not settings.enabled:
            return torch.cat(keep, dim=1)
        taking_part = [
            index
            for index, name in enumerate(rows.names)
            if (settings.denoising or not name.startswith("_dn"))
            and (settings.encoder or name != "_enc")
        ]
        ranks, matched = _split(rows, rows.rank), _split(rows, rows.objects >= 0)
        kept = self.drop([ranks[i] for i in taking_part], [matched[i] for i in taking_part])
        for index, part in zip(taking_part, kept, strict=True):
            keep[index] = part
        return torch.cat(keep, dim=1)

    @torch.no_grad()
    def _normalizers(
        self,
        rows: _Rows,
        keep: Tensor,
        targets: Sequence[ImageTargets],
        denoising: Denoising | None,
    ) -> Tensor:
        """What the sums of each layer are divided by, float32 (layers,)."""
        total = float(sum(len(one.classes) for one in targets))
        groups = 1 if denoising is None else denoising.groups
        counts = [torch.tensor([total], device=keep.device)]
        kept_only = self.drop.settings.enabled and self.drop.settings.norm == "kept"
        if kept_only:
            counts += [part.sum()[None] for part in _split(rows, rows.objects >= 0)]
            counts += [part.sum()[None] for part in _split(rows, (rows.objects >= 0) & keep)]
        mean = _mean_over_ranks(torch.cat([count.float() for count in counts]))
        number = mean[0].clamp(min=1).repeat(len(rows.names))
        if kept_only:
            matched, kept = mean[1:].chunk(2)
            number = torch.where(matched > 0, number * kept / matched, number).clamp(min=1)
        factors = [groups if name.startswith("_dn") else 1 for name in rows.names]
        return number * torch.tensor(factors, device=number.device)

    def _sums(self, rows: _Rows, keep: Tensor, normalizers: Tensor) -> dict[str, Tensor]:
        taught = keep & (rows.objects != EMPTY_SLOT)
        boxed = keep & (rows.objects >= 0)
        losses = {}
        for name, row, member, weight in (
            ("loss_cls", rows.classification, taught, self.weights.classification),
            ("loss_l1", rows.l1, boxed, self.weights.l1),
            ("loss_giou", rows.giou, boxed, self.weights.giou),
        ):
            parts = _split(rows, torch.where(member, row, 0.0))
            totals = torch.stack([part.sum() for part in parts]) * weight / normalizers
            for suffix, loss in zip(rows.names, totals, strict=True):
                losses[name + suffix] = loss
        return losses


def _named_predictions(output: DINOOutput, *, denoises: bool) -> list[tuple[str, LayerPrediction]]:
    """Predictions with the suffix of their losses; the last layer comes last."""
    noised = output.denoising
    if denoises and not noised:
        noised = [LayerPrediction(one.logits[:, :0], one.boxes[:, :0]) for one in output.layers]
    named = [(f"_dn{suffix}", one) for suffix, one in _numbered(noised)]
    return [*named, ("_enc", output.encoder), *_numbered(output.layers)]


def _numbered(layers: Sequence[LayerPrediction]) -> list[tuple[str, LayerPrediction]]:
    last = len(layers) - 1
    return [("" if i == last else f"_{i}", one) for i, one in enumerate(layers)]


def _targets_of(
    objects: Tensor, targets: Sequence[ImageTargets], *, background: int
) -> tuple[Tensor, Tensor]:
    """Classes (N, S) and boxes (N, S, 4) of objects; of none: ``background``, an arbitrary box."""
    classes = pad_sequence([one.classes for one in targets], batch_first=True)
    boxes = pad_sequence([one.boxes.float() for one in targets], batch_first=True)
    if classes.shape[1] == 0:  # there has to be something to take
        classes, boxes = classes.new_zeros(len(targets), 1), boxes.new_zeros(len(targets), 1, 4)
    index = objects.clamp(min=0)
    chosen = torch.where(objects >= 0, classes.gather(1, index), background)
    return chosen, boxes.gather(1, index[..., None].expand(-1, -1, 4))


def _split(rows: _Rows, values: Tensor) -> list[Tensor]:
    """Part the columns of (N, S) by layer."""
    return list(values.split(rows.sizes, dim=1))


def _corners(boxes: Tensor) -> Tensor:
    return box_convert(boxes, "cxcywh", "xyxy")


def _mean_over_ranks(counts: Tensor) -> Tensor:
    """Mean over all processes, each of which has to call this."""
    if comm.get_world_size() == 1:
        return counts
    torch.distributed.all_reduce(counts)
    return counts / comm.get_world_size()
