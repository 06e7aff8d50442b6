"""The meta architecture of weakly supervised detection: proposals and tags in, no boxes."""

from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

from weaksam_d2.data import ImageTags

from .full_supervision import BoxTargets

__all__ = ["WSODRCNN"]

# A batch of weak supervision holds none of these; each would carry boxes or masks of objects.
FORBIDDEN = ("instances", "targets", "annotations", "sem_seg")


@META_ARCH_REGISTRY.register()
class WSODRCNN(GeneralizedRCNN):
    """A GeneralizedRCNN that learns from precomputed proposals and image-level classes.

    A training sample holds ``image``, ``proposals`` and ``image_labels`` (int64 (m,), m >= 0), and
    may hold ``negative_labels`` and ``unknown_labels``. Its tags travel to the heads where the
    parent expects ground-truth instances. With ``DATASETS.BOXES_TRAIN`` a sample may bring true
    boxes, under the key ``full_instances`` alone.
    """

    @configurable
    def __init__(
        self, *, test_label_filter: bool = False, open_labels: bool = False, **kwargs: Any
    ) -> None:
        """Take the parent's arguments and two of ours.

        Args:
            test_label_filter: in inference every sample brings ``image_labels``, and classes that
                are not among them are cut before the top-k (detection for pseudo boxes).
            open_labels: an untagged class is unknown unless ``negative_labels`` holds it.
            kwargs: as for ``GeneralizedRCNN``; ``proposal_generator`` must be None.

        Raises:
            ValueError: if there is a proposal generator.
        """
        super().__init__(**kwargs)
        if self.proposal_generator is not None:
            raise ValueError(
                "WSODRCNN takes proposals from files: set MODEL.PROPOSAL_GENERATOR.NAME to "
                f"PrecomputedProposals, not to a {type(self.proposal_generator).__name__}"
            )
        self.test_label_filter = test_label_filter
        self.open_labels = open_labels

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """As the parent, and ``MODEL.WSOD.TEST_LABEL_FILTER`` and ``OPEN_LABELS``."""
        if not cfg.MODEL.LOAD_PROPOSALS:
            raise ValueError("WSODRCNN takes proposals from files: set MODEL.LOAD_PROPOSALS True")
        args: dict[str, Any] = super().from_config(cfg)
        args["test_label_filter"] = cfg.MODEL.WSOD.TEST_LABEL_FILTER
        args["open_labels"] = cfg.MODEL.WSOD.OPEN_LABELS
        return args

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, ``[{"instances": Instances}]`` otherwise.

        Raises:
            ValueError: if a training sample carries ground truth, or no ``image_labels``.
        """
        if not self.training:
            return self.inference(batched_inputs)
        samples = [
            {**sample, "instances": self._checked_labels(sample)} for sample in batched_inputs
        ]
        return super().forward(samples)

    def inference(
        self,
        batched_inputs: list[dict[str, Any]],
        detected_instances: list[Instances] | None = None,
        do_postprocess: bool = True,
    ) -> Any:
        """As the parent; with ``test_label_filter`` the samples' labels cut absent classes."""
        if self.test_label_filter and detected_instances is None:
            batched_inputs = [self._with_label_mask(sample) for sample in batched_inputs]
        return super().inference(batched_inputs, detected_instances, do_postprocess)

    def score_proposals(
        self, batched_inputs: list[dict[str, Any]]
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Scores (R, C) and boxes (R, C, 4) of all proposals of each sample, nothing selected.

        Boxes are XYXY in pixels of the sample's image and not clipped.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals = [sample["proposals"].to(self.device) for sample in batched_inputs]
        regions = self.roi_heads.region_features(features, proposals)
        scores = self.roi_heads.class_scores(regions, proposals)
        return scores, self.roi_heads.predicted_boxes(regions, proposals)

    def select_detections(self, sample: dict[str, Any], scores: Tensor, boxes: Tensor) -> Instances:
        """Detections of one sample from scores (R, C) and boxes (R, C, 4) of its proposals."""
        if self.test_label_filter:
            sample = self._with_label_mask(sample)
        detections: Instances = self.roi_heads.detect(
            [scores], [boxes], [sample["proposals"].to(scores.device)]
        )[0]
        return detections

    def visualize_training(
        self, batched_inputs: list[dict[str, Any]], proposals: list[Instances]
    ) -> None:
        """Draw the best proposal of each tagged class on the first image of the batch."""
        from detectron2.utils.visualizer import Visualizer

        sample, found = batched_inputs[0], proposals[0]
        image = convert_image_to_rgb(sample["image"].permute(1, 2, 0), self.input_format)
        labels = sample["instances"].tolist()
        canvas = Visualizer(image, None)
        if labels and len(found):
            best = found.class_scores[:, labels].argmax(dim=0)
            boxes = found.proposal_boxes.tensor[best].cpu().numpy()
            canvas.overlay_instances(boxes=boxes, labels=[str(label) for label in labels])
        drawn = np.ascontiguousarray(canvas.get_output().get_image().transpose(2, 0, 1))
        get_event_storage().put_image("best proposal of each tagged class", drawn)

    def _checked_labels(self, sample: dict[str, Any]) -> ImageTags | BoxTargets:
        name = sample.get("image_id", sample.get("file_name", "?"))
        for key in FORBIDDEN:
            if key in sample:
                raise ValueError(
                    f"image {name!r} brings {key!r} into weakly supervised training; "
                    "set INPUT.MAPPER_NAME WeakDatasetMapper and train on a weak data set"
                )
        if "proposals" not in sample or "image_labels" not in sample:
            raise ValueError(
                f"image {name!r} needs 'proposals' and 'image_labels', it has {sorted(sample)}"
            )
        fields = sample["proposals"].get_fields()
        leaked = [field for field in fields if field.startswith("gt_")]
        if leaked:
            raise ValueError(f"the proposals of image {name!r} carry ground truth: {leaked}")
        if "full_instances" not in sample:
            return self._tags(sample)
        if getattr(self.roi_heads, "full_supervision", None) is None:
            raise ValueError(
                f"image {name!r} brings true boxes ('full_instances'); only mixed supervision "
                "takes them: name its data set in DATASETS.BOXES_TRAIN"
            )
        return BoxTargets.from_sample(sample, num_classes=self.roi_heads.num_classes)

    def _tags(self, sample: dict[str, Any]) -> ImageTags:
        return ImageTags.from_sample(
            sample, num_classes=self.roi_heads.num_classes, open_labels=self.open_labels
        )

    def _with_label_mask(self, sample: dict[str, Any]) -> dict[str, Any]:
        if "image_labels" not in sample:
            raise ValueError(
                f"MODEL.WSOD.TEST_LABEL_FILTER needs the labels of image "
                f"{sample.get('image_id', '?')!r}; detect on a weak data set or switch it off"
            )
        given = sample["proposals"]
        mask = torch.zeros(self.roi_heads.num_classes, dtype=torch.bool)
        mask[self._tags(sample).present] = True
        proposals = Instances(given.image_size, **given.get_fields())
        proposals.image_labels = mask.expand(len(given), -1)
        return {**sample, "proposals": proposals}
