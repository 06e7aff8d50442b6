"""Losses of the regions that a detector samples in training, kept instead of learned from."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import build_detection_train_loader
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import TrainingSampler
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling import build_model
from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers
from detectron2.structures import Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from tqdm import tqdm

from weaksam_d2.data import AnnotationFieldsMapper
from weaksam_d2.retrain import RoIDropFastRCNNOutputLayers, RoIDropSettings, region_losses

__all__ = ["FLAGS", "RegionTable", "collect_regions", "load_detector"]

logger = logging.getLogger(__name__)
FLAGS = ("wrong", "wrong_same_class")  # numbers 0 or 1 of the annotations
_NORMS = (nn.modules.batchnorm._BatchNorm, FrozenBatchNorm2d)


@dataclass(frozen=True)
class RegionTable:
    """Sampled regions (R,) of all images: losses in the unit of the thresholds, and what is wrong.

    ``wrong``: the matched pseudo box has a lower IoU than asked for with every true box of its
    image; ``wrong_same_class``: with every one of its class. Both are False for background.
    """

    cls_loss: np.ndarray
    box_loss: np.ndarray
    foreground: np.ndarray
    wrong: np.ndarray
    wrong_same_class: np.ndarray
    images: int


class LossRecorder(RoIDropFastRCNNOutputLayers):
    """Keeps the losses of the regions it is asked for, and gives none."""

    TAKES: ClassVar[tuple[type, ...]] = (FastRCNNOutputLayers, RoIDropFastRCNNOutputLayers)
    rows: list[dict[str, np.ndarray]] | None = None

    def losses(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> dict[str, Tensor]:
        """Append one row of arrays (R,) to ``rows``."""
        if self.rows is None:
            self.rows = []
        if len(predictions[0]):
            regions = region_losses(self, predictions, proposals)
            row = {
                "cls_loss": regions.classification,
                "box_loss": self.box_signal(regions),
                "foreground": regions.foreground,
            }
            for key in FLAGS:
                flag = [
                    p.get(f"gt_{key}") if p.has(f"gt_{key}") else p.gt_classes.new_zeros(len(p))
                    for p in proposals
                ]
                row[key] = (torch.cat(flag) > 0.5) & regions.foreground
            self.rows.append({key: value.detach().cpu().numpy() for key, value in row.items()})
        return {}


def load_detector(cfg: Any) -> tuple[nn.Module, int | None]:
    """The detector of ``MODEL.WEIGHTS``, and the iteration of that checkpoint if it says one.

    Warns if the checkpoint has been trained with RoI drop, which its losses then show.

    Raises:
        ValueError: no weights.
    """
    if not cfg.MODEL.WEIGHTS:
        raise ValueError(
            "MODEL.WEIGHTS is empty; name a checkpoint of the retrained detector, from before "
            "RoI drop starts (MODEL.ROI_DROP.START_ITER)"
        )
    model = build_model(cfg)
    rest = DetectionCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    iteration = rest.get("iteration")
    settings = RoIDropSettings.from_config(cfg)
    if iteration is not None and settings.mode != "off" and iteration >= settings.start_iter:
        logger.warning(
            "the checkpoint is of iteration %d and RoI drop started at %d: regions of high loss "
            "no longer trained it; an earlier checkpoint shows the preliminary stage",
            iteration, settings.start_iter,
        )  # fmt: skip
    return model, iteration


def collect_regions(
    cfg: Any, model: nn.Module, records: Sequence[dict[str, Any]], *, images: int, seed: int = 0
) -> RegionTable:
    """Run a detector in training mode, without changing it, and keep what it samples.

    Images come in a seeded random order with the training augmentation of ``cfg``; ``images`` of
    them, or all. Of a cascade the first stage is taken. The model's box predictor is replaced.
    """
    recorder = _swap_in(model, RoIDropSettings.from_config(cfg))
    count = min(images, len(records))
    model.train()
    for module in model.modules():
        if isinstance(module, _NORMS):
            module.eval()  # running statistics stay
    seen = 0
    with torch.no_grad(), EventStorage(), tqdm(total=count, unit="image", mininterval=1.0) as bar:
        for batch in _batches(cfg, records, seed):
            batch = batch[: count - seen]
            model(batch)
            seen += len(batch)
            bar.update(len(batch))
            if seen >= count:
                break
    return _joined(recorder.rows or [], count)


def _swap_in(model: Any, settings: RoIDropSettings) -> LossRecorder:
    heads = model.roi_heads
    predictors = heads.box_predictor
    cascade = isinstance(predictors, nn.ModuleList)
    made = LossRecorder.taking_over(predictors[0] if cascade else predictors, settings)
    if cascade:
        predictors[0] = made
    else:
        heads.box_predictor = made
    assert isinstance(made, LossRecorder)
    return made


def _batches(cfg: Any, records: Sequence[dict[str, Any]], seed: int) -> Iterable[Any]:
    arguments = AnnotationFieldsMapper.from_config(cfg, True)
    mapper = AnnotationFieldsMapper(**{**arguments, "fields": (*arguments["fields"], *FLAGS)})
    loader: Iterable[Any] = build_detection_train_loader(
        MapDataset(DatasetFromList(list(records), copy=False), mapper),
        mapper=None,
        sampler=TrainingSampler(len(records), seed=seed),
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=False,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        seed=seed,
    )
    return loader


def _joined(rows: Sequence[Mapping[str, np.ndarray]], images: int) -> RegionTable:
    kinds = {"cls_loss": float, "box_loss": float, "foreground": bool, **dict.fromkeys(FLAGS, bool)}
    columns = {
        key: np.concatenate([np.zeros(0, kind), *(row[key].astype(kind) for row in rows)])
        for key, kind in kinds.items()
    }
    return RegionTable(**columns, images=images)
