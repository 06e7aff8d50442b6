"""Test-time augmentation: detections of several views of an image, joined by suppression."""

from typing import Any, Protocol

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import DatasetMapperTTA
from detectron2.structures import Boxes, Instances
from torch import nn

__all__ = ["DINOWithTTA"]


class _Detector(Protocol):
    """What the views need of a DINO."""

    training: bool
    max_detections: int

    def inference(
        self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True
    ) -> list[Any]: ...


class DINOWithTTA(nn.Module):
    """A DINO that looks at an image in several sizes, each mirrored as well.

    Called as the model. Detections of all views, back in pixels of the original image, pass one
    class-wise suppression. One view is in the network at a time.

    Source: weaksam.md, Sec. 9.
    """

    @configurable
    def __init__(
        self, model: _Detector, *, views: DatasetMapperTTA, nms_thresh: float = 0.6
    ) -> None:
        """Wrap a model.

        Args:
            model: the detector.
            views: makes the samples of all views of a sample.
            nms_thresh: IoU above which the lower of two boxes of one class goes.
        """
        super().__init__()
        self.model = model
        self.views = views
        self.nms_thresh = nms_thresh
        # Evaluation puts back the mode that it found: it must be the model's.
        self.training = model.training

    @classmethod
    def from_config(cls, cfg: Any, model: _Detector) -> dict[str, Any]:
        """Read ``TEST.AUG`` and ``MODEL.DINO.TTA_NMS_THRESH``."""
        return {
            "model": model,
            "views": DatasetMapperTTA(cfg),
            "nms_thresh": cfg.MODEL.DINO.TTA_NMS_THRESH,
        }

    @torch.no_grad()
    def forward(self, batched_inputs: list[dict[str, Any]]) -> list[dict[str, Instances]]:
        """Detections ``[{"instances": Instances}]`` in pixels of each original image."""
        return [{"instances": self._detect(sample)} for sample in batched_inputs]

    def _detect(self, sample: dict[str, Any]) -> Instances:
        sample = {"height": sample["image"].shape[1], "width": sample["image"].shape[2], **sample}
        size = (int(sample["height"]), int(sample["width"]))
        found = []
        for view in self.views(sample):
            transforms = view.pop("transforms")
            one = self.model.inference([view], do_postprocess=False)[0]
            boxes = transforms.inverse().apply_box(one.pred_boxes.tensor.cpu().numpy())
            placed = Boxes(torch.from_numpy(np.asarray(boxes, np.float32)).to(one.scores.device))
            placed.clip(size)
            one = Instances(size, **{**one.get_fields(), "pred_boxes": placed})
            found.append(one[placed.nonempty()])
        joined = Instances.cat(found)
        kept = batched_nms(
            joined.pred_boxes.tensor, joined.scores, joined.pred_classes, self.nms_thresh
        )
        return joined[kept[: self.model.max_detections]]
