"""A trained semantic segmenter on an image alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import build_augmentation
from torch import nn

from weaksam_d2.artifacts import LabelSpace
from weaksam_d2.engine.cli import ConfigExtension
from weaksam_d2.engine.pipeline.stored_config import (
    load_detector,
    stored_label_space,
    stored_model_config,
)
from weaksam_d2.engine.prediction.image_predictor import (
    ImagePredictor,
    check_class_names,
    model_identity,
)
from weaksam_d2.engine.prediction.label_kind import LabelKind
from weaksam_d2.engine.training.inference_views import sem_seg_output, with_test_views
from weaksam_d2.ops import best_labels

__all__ = ["SegmentationPredictor"]


class SegmentationPredictor(ImagePredictor):
    """Labels the pixels of one image: ``predictor(image)["labels"]``.

    Images are prepared as in evaluation: ``INPUT.*_TEST``, ``TEST.SEM_SEG_SCALES`` and
    ``TEST.SEM_SEG_FLIP`` apply.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        augmentations: Sequence[Any],
        input_format: str,
        space: LabelSpace,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        """Take a model in inference mode and what is around it.

        Args:
            model: gives ``sem_seg``, scores (labels, height, width), for each image.
            augmentations: geometry between image and network.
            input_format: "RGB" or "BGR", channels that the network takes.
            space: what the channels of the scores mean; the first is background.
            identity: hashes of what decides the labels, for what is stored of them.
        """
        super().__init__(
            model=model,
            augmentations=augmentations,
            input_format=input_format,
            categories=space.categories,
            identity=identity,
        )
        self.space = space

    @classmethod
    def from_config(cls, cfg: Any, *, space: LabelSpace) -> "SegmentationPredictor":
        """Build the model of a config with the weights of ``MODEL.WEIGHTS``.

        Raises:
            ValueError: another number of labels, a model that labels no pixels, an incomplete
                checkpoint. FileNotFoundError: no such checkpoint.
        """
        check_class_names("SEM_SEG_HEAD", cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, space.classes)
        model = load_detector(cfg, cfg.MODEL.WEIGHTS)
        if not sem_seg_output(model):
            raise ValueError(
                f"MODEL.META_ARCHITECTURE is {cfg.MODEL.META_ARCHITECTURE}, which labels no "
                "pixels; expected a semantic segmenter"
            )
        return cls(
            model=with_test_views(cfg, model),
            augmentations=build_augmentation(cfg, False),
            input_format=cfg.INPUT.FORMAT,
            space=space,
            identity=model_identity(cfg, "segment"),
        )

    @classmethod
    def of_pipeline(
        cls,
        root: Path,
        *,
        opts: Sequence[str] = (),
        extend: ConfigExtension | None = None,
    ) -> "SegmentationPredictor":
        """The segmenter of a pipeline's output with its own settings; no data set is needed.

        ``opts`` are KEY VALUE pairs put on top, such as ``TEST.SEM_SEG_FLIP True``.

        Raises:
            FileNotFoundError: a stage has not run.
        """
        cfg = stored_model_config(root, "segmenter", opts=opts, extend=extend)
        return cls.from_config(cfg, space=stored_label_space(root))

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Label an RGB uint8 image (H, W, 3).

        Returns:
            ``labels``, uint8 (H, W) of ``space``, and ``sem_seg``, the scores (labels, H, W) that
            it is the best of, on the model's device: logits, or what the model gives; of several
            views the mean of the probabilities.

        Raises:
            ValueError: for an array of another kind.
        """
        scores = self.model([self.sample(image)])[0]["sem_seg"]
        return {"labels": best_labels(scores), "sem_seg": scores}

    def kind(self, *, score_thresh: float | None = None) -> LabelKind:
        """How labels are stored; they have no scores.

        Raises:
            ValueError: a ``score_thresh``.
        """
        if score_thresh is not None:
            raise ValueError(
                f"the score threshold {score_thresh} is for boxes, and a segmenter labels every "
                "pixel; leave out --score-thresh"
            )
        return LabelKind(self.space)
