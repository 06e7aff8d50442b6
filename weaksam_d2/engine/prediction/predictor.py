"""A trained detector on an image alone."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data.detection_utils import build_augmentation
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from torch import nn

from weaksam_d2.artifacts import CategoryMap, Proposals
from weaksam_d2.data.weak_mapper import usable_boxes
from weaksam_d2.engine.cli import ConfigExtension
from weaksam_d2.engine.pipeline.stored_config import (
    load_detector,
    stored_categories,
    stored_model_config,
)
from weaksam_d2.engine.prediction.detection_kind import DetectionKind
from weaksam_d2.engine.prediction.image_predictor import (
    ImagePredictor,
    check_class_names,
    model_identity,
)
from weaksam_d2.engine.prediction.image_road import ImageRoad
from weaksam_d2.engine.training.class_count import class_count_node
from weaksam_d2.engine.training.inference_views import predicts_labels, with_test_views
from weaksam_d2.wsod import WSODRCNN

__all__ = ["DETECTORS", "WeakSAMPredictor"]

DETECTORS = ("retrain", "wsod")
Propose = Callable[[np.ndarray], Proposals]


class WeakSAMPredictor(ImagePredictor):
    """Detects on one image: ``predictor(image)["instances"]``.

    A retrained detector takes the image alone. A weakly supervised one takes it through
    cams → prompts → proposals first (:class:`ImageRoad`). Images are prepared as in evaluation:
    ``INPUT.*_TEST`` and ``TEST.AUG`` apply.

    Source: design.md, Sec. 4 (engine) and Sec. 7, walk 12.
    """

    def __init__(
        self,
        *,
        model: nn.Module,
        augmentations: Sequence[Any],
        input_format: str,
        categories: CategoryMap,
        propose: Propose | None = None,
        min_side: float = 20,
        identity: Mapping[str, str] | None = None,
    ) -> None:
        """Take a model in inference mode and what is around it.

        Args:
            model: detectron2 detector, or its test-time augmentation.
            augmentations: geometry between image and network.
            input_format: "RGB" or "BGR", channels that the network takes.
            categories: its classes.
            propose: gives the proposals of a weakly supervised detector.
            min_side: of usable proposals, pixels of the original image.
            identity: hashes of what decides the detections, for what is stored of them.
        """
        super().__init__(
            model=model,
            augmentations=augmentations,
            input_format=input_format,
            categories=categories,
            identity=identity,
        )
        self._propose, self._min_side = propose, min_side

    @classmethod
    def from_config(
        cls, cfg: Any, *, categories: CategoryMap, propose: Propose | None = None
    ) -> "WeakSAMPredictor":
        """Build the model of a config with the weights of ``MODEL.WEIGHTS``.

        Raises:
            ValueError: a weakly supervised detector and no ``propose``, ``MODEL.LOAD_PROPOSALS``
                of any other detector, another number of classes, an incomplete checkpoint.
            FileNotFoundError: no such checkpoint.
        """
        _check(cfg, categories, propose)
        model = load_detector(cfg, cfg.MODEL.WEIGHTS)
        if isinstance(model, WSODRCNN):
            model.test_label_filter = False  # an image alone has no tags
        # Views of a weakly supervised detector are made from image and proposals as they are.
        plain = cfg.TEST.AUG.ENABLED and isinstance(model, WSODRCNN)
        return cls(
            model=with_test_views(cfg, model),
            augmentations=[] if plain else build_augmentation(cfg, False),
            input_format=cfg.INPUT.FORMAT,
            categories=categories,
            propose=propose if isinstance(model, WSODRCNN) else None,
            min_side=cfg.MODEL.WSOD.MIN_SIDE,
            identity={**model_identity(cfg, "retrain"), **getattr(propose, "identity", {})},
        )

    @classmethod
    def of_pipeline(
        cls,
        root: Path,
        detector: str = "retrain",
        *,
        opts: Sequence[str] = (),
        extend: ConfigExtension | None = None,
    ) -> "WeakSAMPredictor":
        """The detector of a pipeline's output with its own settings; no data set is needed.

        ``detector`` is "retrain" (the last round's) or "wsod"; ``opts`` are KEY VALUE pairs put on
        top, such as ``TEST.AUG.ENABLED True``.

        Raises:
            ValueError: another detector. FileNotFoundError: a stage has not run.
        """
        if detector not in DETECTORS:
            raise ValueError(f"detector is {detector!r}, expected one of {', '.join(DETECTORS)}")
        cfg = stored_model_config(root, detector, opts=opts, extend=extend)
        categories = stored_categories(root)
        propose = None
        if detector == "wsod":
            propose = ImageRoad.of_pipeline(root, categories.names, opts=opts, extend=extend)
        return cls.from_config(cfg, categories=categories, propose=propose)

    @torch.no_grad()
    def __call__(self, image: np.ndarray) -> dict[str, Any]:
        """Detect on an RGB uint8 image (H, W, 3).

        Returns:
            ``{"instances": Instances}`` on the CPU, ordered by falling score: ``pred_boxes`` XYXY
            float32 in pixels of the image, ``scores``, ``pred_classes``, ``pred_masks`` of a
            detector that has masks.

        Raises:
            ValueError: for an array of another kind.
        """
        found = self.model([self.sample(image)])[0]["instances"].to("cpu")
        return {"instances": found[found.scores.argsort(descending=True, stable=True)]}

    def kind(self, *, score_thresh: float | None = None) -> DetectionKind:
        """How detections are stored; ``score_thresh`` of the boxes in pictures (None: 0.5)."""
        chosen = {} if score_thresh is None else {"score_thresh": score_thresh}
        return DetectionKind(self.categories, **chosen)

    def sample(self, image: np.ndarray) -> dict[str, Any]:
        """What the network is given for an image; keys as in a test batch."""
        sample, transforms = self._prepared(image)
        if self._propose is not None:
            size, pixels = (sample["height"], sample["width"]), sample["image"]
            boxes = usable_boxes(
                np.asarray(self._propose(image).boxes),
                size,
                min_side=self._min_side,
                where="the image",
            )
            if not len(boxes):  # as in training
                boxes = np.array([[0, 0, size[1], size[0]]], dtype=np.float32)
            sample["proposals"] = _proposals(transforms.apply_box(boxes), pixels.shape[1:])
        return sample


def _proposals(boxes: np.ndarray, size: Sequence[int]) -> Instances:
    made = Instances((int(size[0]), int(size[1])))
    made.proposal_boxes = Boxes(torch.as_tensor(boxes, dtype=torch.float32))
    made.proposal_boxes.clip(made.image_size)
    made.objectness_logits = -torch.arange(len(boxes), dtype=torch.float32)
    return made


def _check(cfg: Any, categories: CategoryMap, propose: Propose | None) -> None:
    weak = cfg.MODEL.META_ARCHITECTURE == "WSODRCNN"
    name = cfg.MODEL.META_ARCHITECTURE
    if getattr(META_ARCH_REGISTRY.get(name), "classifies_images", False):
        raise ValueError(f"MODEL.META_ARCHITECTURE is {name}, which detects nothing")
    if predicts_labels(cfg):
        raise ValueError(
            f"MODEL.META_ARCHITECTURE is {name}, trained on label images: it labels pixels, as "
            "SegmentationPredictor does"
        )
    if weak and propose is None:
        raise ValueError(
            "a weakly supervised detector needs proposals of each image: name the folder of the "
            "pipeline that it comes from (tools/predict.py --pipeline), which makes them"
        )
    if not weak and cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(
            "MODEL.LOAD_PROPOSALS is True: a detector that reads its proposals from a file cannot "
            "be run on an image alone"
        )
    if cfg.MODEL.WSOD.OBJECTNESS_SCALE and weak:
        raise ValueError(
            "MODEL.WSOD.OBJECTNESS_SCALE is True and prediction does not pass scores of proposals"
        )
    kind = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    key = class_count_node(kind) or "ROI_HEADS"
    check_class_names(key, cfg.MODEL[key].NUM_CLASSES, categories.names)
