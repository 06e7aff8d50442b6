"""What every trained model on an image alone has in common."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import transforms as T
from torch import nn

from weaksam_d2.artifacts import CategoryMap, sha256_file, sha256_json
from weaksam_d2.engine.prediction.kind import PredictionKind
from weaksam_d2.engine.stages.stage import declared_config

__all__ = ["ImagePredictor", "check_class_names", "model_identity"]


class ImagePredictor:
    """Prepares an image as evaluation does and says what decides the prediction.

    A subclass calls the model (``predictor(image)``) and says what it gives (:meth:`kind`).
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        augmentations: Sequence[Any],
        input_format: str,
        categories: CategoryMap,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        """Take a model in inference mode and what is around it.

        Args:
            model: detectron2 model, or its test-time augmentation.
            augmentations: geometry between image and network.
            input_format: "RGB" or "BGR", channels that the network takes.
            categories: its classes.
            identity: hashes of what decides the predictions, for what is stored of them.
        """
        self.model, self.categories, self.identity = model, categories, dict(identity or {})
        self._augmentations = T.AugmentationList(list(augmentations))
        self.input_format = input_format

    @property
    def test_size(self) -> dict[str, int]:
        """The resize before the network: ``shortest_side`` and ``longest_side`` (limit), pixels."""
        for step in self._augmentations.augs:
            if isinstance(step, T.ResizeShortestEdge):
                return {
                    "shortest_side": int(step.short_edge_length[0]),
                    "longest_side": int(step.max_size),
                }
        return {}

    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Predict an RGB uint8 image (H, W, 3)."""
        raise NotImplementedError

    def kind(self, *, score_thresh: float | None = None) -> PredictionKind:
        """How the predictions are stored and drawn.

        score_thresh: of the boxes in pictures, None: 0.5; ValueError: a model without boxes.
        """
        raise NotImplementedError

    def sample(self, image: np.ndarray) -> dict[str, Any]:
        """What the network is given for an image; keys as in a test batch."""
        return self._prepared(image)[0]

    def _prepared(self, image: np.ndarray) -> tuple[dict[str, Any], T.TransformList]:
        """The same, and the geometry that led there; ValueError: an array of another kind."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise ValueError(
                f"expected an RGB uint8 image (H, W, 3), got {image.dtype} {image.shape}"
            )
        given = T.AugInput(image if self.input_format == "RGB" else image[:, :, ::-1])
        transforms = self._augmentations(given)
        pixels = torch.from_numpy(np.ascontiguousarray(given.image.transpose(2, 0, 1)))
        height, width = int(image.shape[0]), int(image.shape[1])
        return {"image": pixels, "height": height, "width": width}, transforms


def model_identity(cfg: Any, stage: str) -> dict[str, str]:
    """Hashes of the weights and of the keys that decide what a stage's model predicts."""
    weights = str(cfg.MODEL.WEIGHTS)
    return {
        "weights": weights if "://" in weights else sha256_file(Path(weights)),
        "config": sha256_json(declared_config(cfg, stage)),
    }


def check_class_names(key: str, count: int, names: Sequence[str]) -> None:
    """Refuse a model with another number of classes than there are names."""
    if count != len(names):
        raise ValueError(
            f"MODEL.{key}.NUM_CLASSES is {count}, but there are {len(names)} class names: "
            f"{', '.join(names[:5])}"
        )
