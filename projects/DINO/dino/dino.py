"""The meta architecture: samples in, losses or detections out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone, detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from .checkpoint import load_dino_checkpoint
from .criterion import DINOCriterion
from .denoising import make_denoising
from .network import DINONetwork, NetworkSettings
from .outputs import ImageTargets, LayerPrediction
from .test_time_augmentation import DINOWithTTA

__all__ = ["DINO", "DenoisingSettings"]


@dataclass(frozen=True)
class DenoisingSettings:
    """Denoising queries of a training step: how many pairs, how much noise."""

    number: int = 100
    label_noise: float = 0.5
    box_noise: float = 1.0


@META_ARCH_REGISTRY.register()
class DINO(DINONetwork):
    """A set predictor with contrastive denoising: no proposals, no suppression of overlaps.

    A training sample holds ``image`` (C, H, W) and ``instances`` with ``gt_boxes`` and
    ``gt_classes``; in inference ``image``, and perhaps ``height`` and ``width`` of the original.

    Source: DINO (Zhang et al., ICLR 2023); extras.md, Sec. 1; weaksam.md, Sec. 9.
    """

    class_count_node = "ROI_HEADS"  # the node whose NUM_CLASSES is the number of classes
    # Published detectors were trained on boxes: what starts from one is not weakly supervised.
    box_supervised_key = "MODEL.DINO.WEIGHTS"

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        settings: NetworkSettings,
        criterion: nn.Module,
        denoising: DenoisingSettings,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        min_gt_size: float = 0.0,
        max_detections: int = 300,
        weights: str = "",
    ) -> None:
        """Make the detector.

        Args:
            backbone: gives the maps ``settings.in_features``.
            settings: sizes of the network.
            criterion: as :class:`DINOCriterion`.
            denoising: denoising queries of a training step.
            pixel_mean: of each channel, in the order of the images.
            pixel_std: likewise.
            min_gt_size: objects of a smaller width or height, pixels of the training view, are
                left out.
            max_detections: per image.
            weights: a published checkpoint, file or URL; "" for random weights.
        """
        super().__init__(backbone=backbone, settings=settings)
        self.criterion = criterion
        self.denoising = denoising
        self.min_gt_size = min_gt_size
        self.max_detections = max_detections
        self.pixel_mean: Tensor
        self.pixel_std: Tensor
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        if weights:
            load_dino_checkpoint(self, weights)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL`` and ``TEST.DETECTIONS_PER_IMAGE``.

        Raises:
            ValueError: ``MODEL.DINO.WEIGHTS`` beside a backbone in ``MODEL.WEIGHTS``.
        """
        node = cfg.MODEL.DINO
        if node.WEIGHTS and "ImageNetPretrained" in cfg.MODEL.WEIGHTS:
            raise ValueError(
                f"MODEL.WEIGHTS '{cfg.MODEL.WEIGHTS}' would replace the backbone of "
                f"MODEL.DINO.WEIGHTS '{node.WEIGHTS}'; set MODEL.WEIGHTS ''"
            )
        return {
            "backbone": build_backbone(cfg),
            "settings": NetworkSettings.from_config(cfg),
            "criterion": DINOCriterion.from_config(cfg),
            "denoising": DenoisingSettings(node.DN_NUMBER, node.LABEL_NOISE, node.BOX_NOISE),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "min_gt_size": node.MIN_GT_SIZE,
            "max_detections": cfg.TEST.DETECTIONS_PER_IMAGE,
            "weights": node.WEIGHTS,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def with_test_views(self, cfg: Any) -> nn.Module:
        """This model seen through the views of ``TEST.AUG``."""
        return DINOWithTTA(cfg, self)

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, ``[{"instances": Instances}]`` otherwise.

        Instances hold ``pred_boxes`` (pixels of the original image), ``scores`` and
        ``pred_classes``, best first.

        Raises:
            ValueError: a training sample without ``instances``, or with a class that is not in
                [0, C).
        """
        if not self.training:
            return self.inference(batched_inputs)
        targets = [self._targets(sample) for sample in batched_inputs]
        images = self.preprocess_image(batched_inputs)
        denoising = make_denoising(
            targets,
            num_classes=self.settings.num_classes,
            number=self.denoising.number,
            label_noise=self.denoising.label_noise,
            box_noise=self.denoising.box_noise,
        )
        output = self.predict(images.tensor, images.image_sizes, denoising)
        losses = self.criterion(output, targets, denoising)
        if denoising is None:
            # Distributed training waits for the gradient of every parameter.
            losses["loss_cls"] = losses["loss_cls"] + 0.0 * self.label_enc.weight.sum()
        return losses

    @torch.no_grad()
    def inference(
        self, batched_inputs: list[dict[str, Any]], do_postprocess: bool = True
    ) -> list[Any]:
        """Detect: ``[{"instances": Instances}]``.

        Without ``do_postprocess`` plain Instances, boxes in pixels of the images as given.
        """
        images = self.preprocess_image(batched_inputs)
        output = self.predict(images.tensor, images.image_sizes)
        found = detections(output.layers[-1], images.image_sizes, self.max_detections)
        if not do_postprocess:
            return found
        placed = []
        for sample, one in zip(batched_inputs, found, strict=True):
            height, width = sample.get("height"), sample.get("width")
            size = one.image_size if height is None or width is None else (height, width)
            placed.append({"instances": detector_postprocess(one, *size)})
        return placed

    def preprocess_image(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        """Normalize the images and pad them right and below to one size."""
        images = [sample["image"].to(self.device) for sample in batched_inputs]
        return ImageList.from_tensors(
            [(image - self.pixel_mean) / self.pixel_std for image in images],
            self.backbone.size_divisibility,
            padding_constraints=self.backbone.padding_constraints,
        )

    def _targets(self, sample: dict[str, Any]) -> ImageTargets:
        name = sample.get("image_id", sample.get("file_name", "?"))
        if "instances" not in sample:
            raise ValueError(
                f"image {name!r} has no 'instances' to train on, it has {sorted(sample)}; train "
                "on a data set with boxes, true or pseudo"
            )
        classes = sample["instances"].gt_classes
        if ((classes < 0) | (classes >= self.settings.num_classes)).any():
            raise ValueError(
                f"image {name!r} has classes {sorted(set(classes.tolist()))}, expected 0 to "
                f"{self.settings.num_classes - 1}; set MODEL.ROI_HEADS.NUM_CLASSES"
            )
        targets = targets_of(sample["instances"], self.min_gt_size)
        return ImageTargets(targets.classes.to(self.device), targets.boxes.to(self.device))


def targets_of(instances: Instances, min_size: float) -> ImageTargets:
    """Objects of an image whose sides are at least ``min_size`` pixels of it each."""
    boxes = instances.gt_boxes.tensor.float()
    large = (boxes[:, 2:] - boxes[:, :2]).amin(dim=1) >= min_size
    height, width = instances.image_size
    scale = boxes.new_tensor([width, height, width, height])
    centers = box_convert(boxes[large], "xyxy", "cxcywh") / scale
    return ImageTargets(instances.gt_classes[large].long(), centers)


def detections(
    prediction: LayerPrediction, image_sizes: Sequence[tuple[int, int]], limit: int
) -> list[Instances]:
    """The ``limit`` pairs of query and class that score highest, best first, of each image.

    A query may appear with several classes. Boxes are in pixels of the image and clipped.
    """
    classes = prediction.logits.shape[-1]
    scores = prediction.logits.sigmoid().flatten(1)
    best = scores.topk(min(limit, scores.shape[1]), dim=1)
    corners = box_convert(prediction.boxes.float(), "cxcywh", "xyxy")
    found = []
    for i, size in enumerate(image_sizes):
        height, width = int(size[0]), int(size[1])
        scale = corners.new_tensor([width, height, width, height])
        boxes = Boxes(corners[i, best.indices[i] // classes] * scale)
        boxes.clip((height, width))
        found.append(
            Instances(
                (height, width),
                pred_boxes=boxes,
                scores=best.values[i],
                pred_classes=best.indices[i] % classes,
            )
        )
    return found
