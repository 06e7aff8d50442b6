"""Mean teacher: an average of the weights that is evaluated beside them, and may give targets."""

import contextlib
import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase
from detectron2.modeling import GeneralizedRCNN
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from weaksam_d2.data import weak_records
from weaksam_d2.ops.ema import ema_decay, ema_update, teacher_targets
from weaksam_d2.retrain.region_losses import SCORE_FIELD
from weaksam_d2.retrain.roi_drop import RoIDropFastRCNNOutputLayers

__all__ = ["TEACHER_ROW", "EMATeacher", "UpdateTeacher", "load_with_teacher"]

TEACHER_ROW = " (EMA teacher)"  # behind the name of a data set in results
Batch = list[dict[str, Any]]
Autocast = Callable[[], contextlib.AbstractContextManager[Any]]


class EMATeacher:
    """The averaged weights θ' of a model, in a checkpoint under ``ema``.

    With ``loss_weight`` above 0 it detects on every training image, as that was resized and
    flipped; detections of tagged classes that no pseudo box covers join the image's targets, and
    the box head's losses of regions that are matched to them count ``loss_weight``. The RPN, which
    knows no class and no weight of a target, takes them in full.

    Source: extras.md, Sec. 4.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        decay: float,
        start: int = 0,
        score_thresh: float = 0.7,
        loss_weight: float = 0.0,
        tags: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Copy a model, not wrapped, before anything hangs on it.

        Args:
            model: the student; with ``loss_weight`` its box predictors begin to weigh targets.
            decay: of an update, below 1.
            start: iteration of the first average; before it the teacher is the student.
            score_thresh: least score of a target.
            loss_weight: in [0, 1]; 0: the teacher is evaluated only.
            tags: classes (m,) int64 of each training image by its id.

        Raises:
            ValueError: a value out of its range, or a model whose targets have no weight.
        """
        if not 0 < decay < 1 or not 0 <= loss_weight <= 1:
            raise ValueError(
                f"WEAKSAM.EMA_TEACHER.DECAY is {decay}, expected 0 (off) to below 1; LOSS_WEIGHT "
                f"is {loss_weight}, expected 0 to 1"
            )
        self.decay, self.start = decay, start
        self.score_thresh, self.loss_weight = score_thresh, loss_weight
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.loaded = False
        self._tags = dict(tags or {})
        self._keep_scores = loss_weight > 0 and _weigh_targets(model)

    @classmethod
    def from_config(cls, cfg: Any, model: nn.Module) -> "EMATeacher | None":
        """Read ``WEAKSAM.EMA_TEACHER``; None if ``DECAY`` is 0.

        Raises:
            ValueError: as the constructor; targets for a detector with masks.
            KeyError: targets, and a training set without tags.
        """
        node = cfg.WEAKSAM.EMA_TEACHER
        if node.DECAY == 0:
            return None
        tags = {}
        if node.LOSS_WEIGHT > 0:
            if cfg.MODEL.MASK_ON or cfg.MODEL.KEYPOINT_ON:
                raise ValueError(
                    "WEAKSAM.EMA_TEACHER.LOSS_WEIGHT is above 0 and the teacher's targets are "
                    "boxes only; set MODEL.MASK_ON and KEYPOINT_ON False, or LOSS_WEIGHT 0"
                )
            tags = {
                str(record["image_id"]): torch.as_tensor(record["image_labels"], dtype=torch.int64)
                for name in cfg.DATASETS.TRAIN
                for record in weak_records(name)
            }
        return cls(
            model,
            decay=node.DECAY,
            start=node.START,
            score_thresh=node.SCORE_THRESH,
            loss_weight=node.LOSS_WEIGHT,
            tags=tags,
        )

    def update(self, model: nn.Module, iteration: int) -> None:
        """Average in the weights of an iteration, from 0."""
        plain = model.module if isinstance(model, DistributedDataParallel) else model
        ema_update(self.model, plain, ema_decay(self.decay, iteration - self.start))

    def restart(self, model: nn.Module) -> None:
        """Begin with the weights of a model."""
        ema_update(self.model, model, 0.0)

    def require_loaded(self, checkpoint: str) -> None:
        """Raise ValueError if the checkpoint that was loaded had no teacher."""
        if not self.loaded:
            raise ValueError(
                f"checkpoint '{checkpoint}' was written without a teacher (key 'ema'); set "
                "WEAKSAM.EMA_TEACHER.DECAY 0, or train again"
            )

    def add_targets(self, batch: Batch, iteration: int, autocast: Autocast) -> Batch:
        """The samples of a training batch with the teacher's targets in their ``instances``.

        Raises:
            KeyError: an image without tags.
        """
        if self.loss_weight == 0:
            return batch
        found: list[Instances | None] = [None] * len(batch)
        if iteration >= self.start:
            images = [{"image": sample["image"]} for sample in batch]
            with torch.no_grad(), autocast():
                inference: Any = self.model.inference
                found = inference(images, do_postprocess=False)
        joined = [
            {**sample, "instances": self._join(sample, one)}
            for sample, one in zip(batch, found, strict=True)
        ]
        count = sum(len(s["instances"]) for s in joined) - sum(len(s["instances"]) for s in batch)
        get_event_storage().put_scalar("ema_teacher/targets_per_image", count / len(batch))
        return joined

    def _join(self, sample: Mapping[str, Any], found: Instances | None) -> Instances:
        given: Instances = sample["instances"]
        boxes, classes = given.gt_boxes.tensor, given.gt_classes
        weights = torch.ones(len(given))
        if self._keep_scores and given.has(SCORE_FIELD):
            weights = given.get(SCORE_FIELD).float()
        if found is not None:
            found = found.to(boxes.device)
            keep = teacher_targets(
                found.pred_boxes.tensor,
                found.scores,
                found.pred_classes,
                tags=self._tags[str(sample["image_id"])],
                given_boxes=boxes,
                given_classes=classes,
                score_thresh=self.score_thresh,
            )
            boxes = torch.cat([boxes, found.pred_boxes.tensor[keep].to(boxes)])
            classes = torch.cat([classes, found.pred_classes[keep]])
            weights = torch.cat([weights, torch.full((int(keep.sum()),), self.loss_weight)])
        targets = Instances(given.image_size, gt_boxes=Boxes(boxes), gt_classes=classes)
        targets.set(SCORE_FIELD, weights)
        return targets

    def state_dict(self) -> dict[str, Any]:
        """The averaged weights and buffers."""
        return self.model.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        self.model.load_state_dict(state)
        self.loaded = True


class UpdateTeacher(HookBase):  # type: ignore[misc]
    """Updates the teacher after each optimizer step; to be registered before the checkpointer."""

    def __init__(self, teacher: EMATeacher) -> None:
        self._teacher = teacher

    def after_step(self) -> None:
        """Average in the new weights."""
        self._teacher.update(self.trainer.model, self.trainer.iter)


def load_with_teacher(cfg: Any, model: nn.Module, checkpoint: str | Path) -> nn.Module | None:
    """Load a model, and return its teacher if ``WEAKSAM.EMA_TEACHER.DECAY`` is above 0.

    Raises:
        ValueError: the checkpoint has no teacher.
    """
    node = cfg.WEAKSAM.EMA_TEACHER
    if node.DECAY == 0:
        DetectionCheckpointer(model).load(str(checkpoint))
        return None
    teacher = EMATeacher(model, decay=node.DECAY)
    DetectionCheckpointer(model, ema=teacher).load(str(checkpoint))
    teacher.require_loaded(str(checkpoint))
    return teacher.model


def _weigh_targets(model: nn.Module) -> bool:
    """Let the box predictors weigh targets; returns whether they did so by the score before."""
    heads = [m for m in model.modules() if isinstance(m, FastRCNNOutputLayers)]
    able = [m for m in heads if isinstance(m, RoIDropFastRCNNOutputLayers)]
    if not isinstance(model, GeneralizedRCNN) or not able or len(able) < len(heads):
        raise ValueError(
            "WEAKSAM.EMA_TEACHER.LOSS_WEIGHT is above 0: its targets need box predictors that "
            "weigh them, in every stage; use a RoIDrop head (MODEL.ROI_HEADS.NAME "
            "RoIDropROIHeads, RoIDropRes5ROIHeads or RoIDropCascadeROIHeads), or LOSS_WEIGHT 0"
        )
    before = bool(able[0].drop.score_weight)
    for predictor in able:
        predictor.drop = replace(predictor.drop, score_weight="score_norm")
    return before
