"""RoI drop: leave out of the loss the regions whose pseudo label the detector cannot believe."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, cat, ciou_loss, diou_loss
from detectron2.modeling.roi_heads.fast_rcnn import (
    FastRCNNOutputLayers,
    _log_classification_stats,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from detectron2.utils.logger import log_first_n
from fvcore.nn import giou_loss, smooth_l1_loss
from torch import Tensor, nn
from torch.nn import functional as F

from weaksam_d2.ops.drop import roi_drop_mask

__all__ = ["RoIDropFastRCNNOutputLayers", "RoIDropSettings", "swap_box_predictors"]

MODES = ("paper", "release_both", "cls", "reg", "off")
DEFAULT_REG_THRESH = 1.0
IOU_LOSSES = {"giou": giou_loss, "diou": diou_loss, "ciou": ciou_loss}
WARM_UP = 2 / 9  # of a schedule: 2000 of the 9000 iterations of VOC07 (weaksam.md, Sec. 7.1)
SUSPICIOUS_DROP = 0.3  # of the foreground; the paper's errors are a few percent


@dataclass(frozen=True)
class RoIDropSettings:
    """When a region is dropped, and from when on.

    ``cls_thresh`` is in nats; ``reg_thresh`` is in the unit of the box loss as ``reg_reduce``
    (``mean4`` or ``sum`` over the four coordinates) reads it; ``norm`` is ``total`` (all sampled
    regions, as the stock loss) or ``kept``; ``start_iter`` counts iterations from 0.

    Source: WeakSAM, Sec. 3.4, Eq. 1-2; weaksam.md, Sec. 7.1.
    """

    mode: str = "paper"
    cls_thresh: float = 4.0
    reg_thresh: float = DEFAULT_REG_THRESH
    reg_reduce: str = "mean4"
    norm: str = "total"
    start_iter: int = 0

    def __post_init__(self) -> None:
        allowed = {"mode": MODES, "reg_reduce": ("mean4", "sum"), "norm": ("total", "kept")}
        for name, values in allowed.items():
            if getattr(self, name) not in values:
                raise ValueError(
                    f"MODEL.ROI_DROP.{name.upper()} is {getattr(self, name)!r}, "
                    f"expected one of {', '.join(values)}"
                )
        if not (self.cls_thresh > 0 and self.reg_thresh > 0):
            raise ValueError(
                "MODEL.ROI_DROP.CLS_THRESH and REG_THRESH must be positive, "
                f"got {self.cls_thresh} and {self.reg_thresh}"
            )
        if self.start_iter < 0:
            raise ValueError(f"MODEL.ROI_DROP.START_ITER must be >= -1, got {self.start_iter}")

    @classmethod
    def from_config(cls, cfg: Any) -> "RoIDropSettings":
        """Read ``MODEL.ROI_DROP``; START_ITER -1 means 2/9 of ``SOLVER.MAX_ITER``."""
        node = cfg.MODEL.ROI_DROP
        start = node.START_ITER
        return cls(
            mode=node.MODE,
            cls_thresh=node.CLS_THRESH,
            reg_thresh=node.REG_THRESH,
            reg_reduce=node.REG_REDUCE,
            norm=node.NORM,
            start_iter=round(WARM_UP * cfg.SOLVER.MAX_ITER) if start == -1 else start,
        )


class RoIDropFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor whose losses leave out dropped regions.

    Before ``drop.start_iter`` and with mode ``off`` it is the parent, bit for bit. The iteration
    is that of the event storage; without one (outside a trainer) dropping is active.
    """

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, drop: RoIDropSettings, **kwargs: Any) -> None:
        """Take the parent's arguments and ``drop``.

        Raises:
            ValueError: for sigmoid or federated losses, and for a box loss other than smooth L1
                while ``reg_thresh`` still has the value that is meant for smooth L1.
        """
        super().__init__(input_shape, **kwargs)
        if self.use_sigmoid_ce or self.use_fed_loss:
            raise ValueError(
                "RoI drop is defined on softmax cross entropy; set "
                "MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE and USE_FED_LOSS to False"
            )
        other_loss = self.box_reg_loss_type != "smooth_l1"
        judges_boxes = drop.mode in ("paper", "release_both", "reg")
        if other_loss and judges_boxes and drop.reg_thresh == DEFAULT_REG_THRESH:
            raise ValueError(
                f"MODEL.ROI_DROP.REG_THRESH {drop.reg_thresh} is meant for smooth L1; choose one "
                f"for MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE {self.box_reg_loss_type!r}"
            )
        self.drop = drop

    @classmethod
    def from_config(cls, cfg: Any, input_shape: ShapeSpec) -> dict[str, Any]:
        """As the parent, and ``MODEL.ROI_DROP``."""
        args: dict[str, Any] = super().from_config(cfg, input_shape)
        args["drop"] = RoIDropSettings.from_config(cfg)
        return args

    @classmethod
    def taking_over(
        cls, predictor: FastRCNNOutputLayers, drop: RoIDropSettings
    ) -> "RoIDropFastRCNNOutputLayers":
        """Make a predictor with the settings and the two linear layers of a stock one.

        Raises:
            ValueError: if ``predictor`` is of another class, whose own losses would be lost.
        """
        if type(predictor) is not FastRCNNOutputLayers:
            raise ValueError(
                f"RoI drop replaces a FastRCNNOutputLayers, got a {type(predictor).__name__}"
            )
        # On the meta device initialization draws no random number.
        with torch.device("meta"):
            made = cls(
                ShapeSpec(channels=predictor.cls_score.in_features),
                drop=drop,
                box2box_transform=predictor.box2box_transform,
                num_classes=predictor.num_classes,
                test_score_thresh=predictor.test_score_thresh,
                test_nms_thresh=predictor.test_nms_thresh,
                test_topk_per_image=predictor.test_topk_per_image,
                smooth_l1_beta=predictor.smooth_l1_beta,
                box_reg_loss_type=predictor.box_reg_loss_type,
                loss_weight=predictor.loss_weight,
                use_sigmoid_ce=predictor.use_sigmoid_ce,
            )
        made.cls_score, made.bbox_pred = predictor.cls_score, predictor.bbox_pred
        return made

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """As the parent, without what dropped regions would add.

        Raises:
            FloatingPointError: if a loss of a region is not finite.
        """
        logits, deltas = predictions
        active = self.drop.mode != "off" and self._started()
        if has_event_storage():
            get_event_storage().put_scalar("roi_drop/active", float(active))
        if not active or len(logits) == 0:
            losses: dict[str, Tensor] = super().losses(predictions, proposals)
            return losses
        labels = cat([p.gt_classes for p in proposals])
        boxes = cat([p.proposal_boxes.tensor for p in proposals])
        # An image without ground truth has background only, whose target is never read.
        targets = cat(
            [(p.gt_boxes if p.has("gt_boxes") else p.proposal_boxes).tensor for p in proposals]
        )
        cls_loss = F.cross_entropy(logits.float(), labels, reduction="none")
        foreground = (labels >= 0) & (labels < self.num_classes)
        signal = self._box_signal(boxes, targets, deltas, labels, foreground)
        keep = self._keep_mask(cls_loss.detach(), signal, foreground)
        self._log(logits, labels, cls_loss.detach(), signal, foreground, keep)
        # To the parent a dropped region is background: not in the sum, but in the count.
        kept_labels = torch.where(keep, labels, self.num_classes)
        loss_cls = torch.where(keep, cls_loss, 0.0).sum() / len(labels)
        loss_box_reg = self.box_reg_loss(boxes, targets, deltas, kept_labels)
        scale: Tensor | float = 1.0
        if self.drop.norm == "kept":
            scale = len(labels) / keep.sum().clamp(min=1)
        losses = {"loss_cls": loss_cls * scale, "loss_box_reg": loss_box_reg * scale}
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    def _started(self) -> bool:
        if not has_event_storage():
            return True
        return bool(get_event_storage().iter >= self.drop.start_iter)

    @torch.no_grad()
    def _box_signal(
        self, boxes: Tensor, targets: Tensor, deltas: Tensor, labels: Tensor, foreground: Tensor
    ) -> Tensor:
        """Box loss (R,) of each region, in the unit of the threshold; background: 0."""
        rows = foreground.nonzero(as_tuple=True)[0]
        chosen = deltas[rows]
        if deltas.shape[1] != boxes.shape[1]:
            per_class = deltas.view(len(deltas), self.num_classes, boxes.shape[1])
            chosen = per_class[rows, labels[rows]]
        chosen, boxes, targets = chosen.float(), boxes[rows], targets[rows]
        if self.box_reg_loss_type == "smooth_l1":
            wanted = self.box2box_transform.get_deltas(boxes, targets)
            loss = smooth_l1_loss(chosen, wanted, beta=self.smooth_l1_beta, reduction="none")
            loss = loss.mean(dim=1) if self.drop.reg_reduce == "mean4" else loss.sum(dim=1)
        else:
            predicted = self.box2box_transform.apply_deltas(chosen, boxes)
            loss = IOU_LOSSES[self.box_reg_loss_type](predicted, targets, reduction="none")
        signal = torch.zeros(len(labels), device=labels.device)
        return signal.index_put((rows,), loss)

    def _keep_mask(self, cls_loss: Tensor, box_signal: Tensor, foreground: Tensor) -> Tensor:
        return roi_drop_mask(
            cls_loss,
            box_signal,
            foreground,
            cls_threshold=self.drop.cls_thresh,
            reg_threshold=self.drop.reg_thresh,
            mode=self.drop.mode,
        )

    @torch.no_grad()
    def _log(
        self,
        logits: Tensor,
        labels: Tensor,
        cls_loss: Tensor,
        box_signal: Tensor,
        foreground: Tensor,
        keep: Tensor,
    ) -> None:
        if not has_event_storage():
            return
        _log_classification_stats(logits, labels)
        dropped = ~keep
        counts = torch.stack(
            [
                (dropped & foreground).sum(),
                foreground.sum(),
                (dropped & ~foreground).sum(),
                (~foreground).sum(),
                (cls_loss > self.drop.cls_thresh).sum(),
                (box_signal > self.drop.reg_thresh).sum(),
                torch.where(dropped, cls_loss, 0.0).sum(),
            ]
        ).tolist()  # one device synchronization for all
        fg_dropped, fg, bg_dropped, bg, by_cls, by_reg, loss = counts
        storage = get_event_storage()
        storage.put_scalar("roi_drop/by_cls", by_cls / len(labels))
        storage.put_scalar("roi_drop/by_reg", by_reg / len(labels))
        if fg:
            storage.put_scalar("roi_drop/frac_fg", fg_dropped / fg)
        if bg:
            storage.put_scalar("roi_drop/frac_bg", bg_dropped / bg)
        if fg_dropped + bg_dropped:
            storage.put_scalar("roi_drop/mean_lcls_dropped", loss / (fg_dropped + bg_dropped))
        if fg and fg_dropped / fg > SUSPICIOUS_DROP:
            message = "RoI drop left out %d of %d foreground regions; are its thresholds too low?"
            log_first_n(logging.WARNING, message % (fg_dropped, fg), n=1)


def swap_box_predictors(kwargs: dict[str, Any], settings: RoIDropSettings) -> dict[str, Any]:
    """Replace the box predictor(s) among the arguments of a ROI head by ones that drop.

    Args:
        kwargs: what ``from_config`` of a head returned, with ``box_predictor`` or, for Cascade,
            ``box_predictors``.
        settings: of all of them.

    Returns:
        New arguments; parameter names and values stay, and no random number is drawn.
    """
    swap = RoIDropFastRCNNOutputLayers.taking_over
    predictor = kwargs.get("box_predictors", kwargs.get("box_predictor"))
    if isinstance(predictor, nn.Module):
        return {**kwargs, "box_predictor": swap(predictor, settings)}
    if not isinstance(predictor, Sequence):
        raise ValueError(f"the arguments have no box predictor, only {sorted(kwargs)}")
    return {**kwargs, "box_predictors": [swap(stage, settings) for stage in predictor]}
