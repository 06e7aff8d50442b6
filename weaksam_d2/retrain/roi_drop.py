"""RoI drop: leave out of the loss the regions whose pseudo label the detector cannot believe."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads.fast_rcnn import (
    FastRCNNOutputLayers,
    _log_classification_stats,
)
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from weaksam_d2.ops.drop import kept_mean, roi_drop_mask, score_weight

from .drop_log import log_drop, log_limits
from .limits import Limits, PercentileLimits
from .region_losses import RegionLosses, region_losses, region_scores
from .settings import RoIDropSettings

__all__ = ["KEPT_FIELD", "RoIDropFastRCNNOutputLayers", "swap_box_predictors"]

KEPT_FIELD = "roi_drop_kept"  # bool, of the sampled regions, where the mask loss reads it


class RoIDropFastRCNNOutputLayers(FastRCNNOutputLayers):
    """Detectron2's box predictor whose losses leave out dropped regions.

    Before ``drop.start_iter`` and with mode ``off`` it is the parent, bit for bit (unless losses
    are weighted by scores). The iteration is that of the event storage; without one (outside a
    trainer) dropping is active. Decisions are local to a process.
    """

    TAKES: ClassVar[tuple[type, ...]] = (FastRCNNOutputLayers,)  # classes it may replace

    @configurable
    def __init__(self, input_shape: ShapeSpec, *, drop: RoIDropSettings, **kwargs: Any) -> None:
        """Take the parent's arguments and ``drop``.

        Raises:
            ValueError: for losses that RoI drop is not defined for, see
                :meth:`RoIDropSettings.check_losses`.
        """
        super().__init__(input_shape, **kwargs)
        softmax = not (self.use_sigmoid_ce or self.use_fed_loss)
        drop.check_losses(softmax=softmax, box_loss=self.box_reg_loss_type)
        self.drop = drop
        running = drop.threshold == "percentile" and drop.mode != "off"
        self.limits = PercentileLimits(drop) if running else None

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
        if type(predictor) not in cls.TAKES:
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
        """As the parent, without what dropped regions would add, weighted if asked for.

        Raises:
            FloatingPointError: if a loss of a region is not finite. ValueError: no scores to weigh
            by.
        """
        active = self.drop.mode != "off" and self._started()
        if has_event_storage():
            get_event_storage().put_scalar("roi_drop/active", float(active))
        weighted = bool(self.drop.score_weight)
        if not (active or weighted or self.limits is not None) or len(predictions[0]) == 0:
            return self._stock_losses(predictions, proposals)
        regions = region_losses(self, predictions, proposals)
        keep = self._keep_mask(regions, active)
        if not (active or weighted):
            return self._stock_losses(predictions, proposals)
        if has_event_storage():
            _log_classification_stats(predictions[0], regions.labels)
        if active and self.drop.mask:
            parts = keep.split([len(p) for p in proposals])
            for one, part in zip(proposals, parts, strict=True):
                one.set(KEPT_FIELD, part)
        weight = None
        if weighted:
            weight = score_weight(region_scores(proposals, regions.foreground), regions.foreground)
        terms = {"loss_cls": regions.classification, "loss_box_reg": regions.box}
        return {
            name: kept_mean(term, keep, norm=self.drop.norm, weight=weight)
            * self.loss_weight.get(name, 1.0)
            for name, term in terms.items()
        }

    def _stock_losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        losses: dict[str, Tensor] = super().losses(predictions, proposals)
        return losses

    def _started(self) -> bool:
        if not has_event_storage():
            return True
        return bool(get_event_storage().iter >= self.drop.start_iter)

    @torch.no_grad()
    def box_signal(self, regions: RegionLosses) -> Tensor:
        """Box loss (R,) in the unit of the threshold: smooth L1 as ``drop.reg_reduce`` says."""
        mean = self.box_reg_loss_type == "smooth_l1" and self.drop.reg_reduce == "mean4"
        return regions.box.detach() / (4 if mean else 1)

    @torch.no_grad()
    def _keep_mask(self, regions: RegionLosses, active: bool) -> Tensor:
        """Which regions (R,) stay; running limits learn from them in any case."""
        cls_loss, box_loss = regions.classification.detach(), self.box_signal(regions)
        limits = Limits(self.drop.cls_thresh, self.drop.reg_thresh)
        if self.limits is not None:
            limits = self.limits(cls_loss, box_loss, regions.foreground)
            log_limits(self.limits.running, self.limits.NAMES)
        keep = roi_drop_mask(
            cls_loss,
            box_loss,
            regions.foreground,
            cls_threshold=limits.classification,
            reg_threshold=limits.box,
            mode=self.drop.mode if active else "off",
        )
        if active:
            log_drop(cls_loss, box_loss, regions.foreground, keep, limits)
        return keep


def swap_box_predictors(kwargs: dict[str, Any], settings: RoIDropSettings) -> dict[str, Any]:
    """Replace the box predictor(s) among the arguments of a ROI head by ones that drop.

    Args:
        kwargs: what ``from_config`` of a head returned, with ``box_predictor`` or, for Cascade,
            ``box_predictors``, of which those of ``settings.stages`` are replaced.
        settings: of all of them.

    Returns:
        New arguments; parameter names and values stay, and no random number is drawn.

    Raises:
        ValueError: no predictor among the arguments or one of another class; a stage that the
        cascade has not; masks that follow the first stage while that one does not drop.
    """
    swap = RoIDropFastRCNNOutputLayers.taking_over
    predictor = kwargs.get("box_predictors", kwargs.get("box_predictor"))
    if isinstance(predictor, nn.Module):
        return {**kwargs, "box_predictor": swap(predictor, settings)}
    if not isinstance(predictor, Sequence):
        raise ValueError(f"the arguments have no box predictor, only {sorted(kwargs)}")
    stages = settings.stages
    if not set(stages) <= set(range(len(predictor))):
        raise ValueError(
            f"MODEL.ROI_DROP.STAGES is {stages}, expected numbers from 0 to {len(predictor) - 1}: "
            f"the cascade has {len(predictor)} stages"
        )
    if settings.mask and 0 not in stages:
        raise ValueError(
            f"MODEL.ROI_DROP.MASK follows stage 0, which is not in MODEL.ROI_DROP.STAGES {stages}"
        )
    swapped = [
        swap(one, settings) if stage in stages else one for stage, one in enumerate(predictor)
    ]
    return {**kwargs, "box_predictors": swapped}
