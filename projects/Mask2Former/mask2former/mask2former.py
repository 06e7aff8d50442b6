"""Mask2Former as a detectron2 model."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY, Backbone, build_backbone
from detectron2.structures import ImageList
from torch import Tensor, nn

from .checkpoint import load_published
from .criterion import MaskCriterion
from .inference import class_maps, find_instances
from .layers import build_layers
from .outputs import MaskTargets
from .pixel_decoder import PixelDecoder
from .targets import instance_targets, semantic_targets
from .transformer_decoder import TransformerDecoder

__all__ = ["Mask2Former"]

_TASKS = ("instance", "semantic")
_STRIDES = (4, 8, 16, 32)


@META_ARCH_REGISTRY.register()
class Mask2Former(nn.Module):
    """A backbone of detectron2, a pixel decoder and a transformer decoder with masked attention.

    Trains on ``instances`` with masks (task ``instance``) or on ``sem_seg`` (``semantic``), and
    finds ``instances`` or ``sem_seg`` (scores (C, height, width)) at the original size.

    Source: Mask2Former (Cheng et al., CVPR 2022); extras.md, Sec. 2.
    """

    class_count_node = "ROI_HEADS"
    box_supervised_key = "MODEL.MASK2FORMER.WEIGHTS"  # a published model has learned from masks
    pixel_mean: Tensor
    pixel_std: Tensor

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        pixel_decoder: PixelDecoder,
        predictor: TransformerDecoder,
        criterion: MaskCriterion,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        task: str = "instance",
        num_classes: int,
        size_divisibility: int = 32,
        detections_per_image: int = 100,
        ignore_value: int = 255,
        mask_ignore: bool = False,
        weights: str = "",
    ) -> None:
        """Take the parts; ``weights`` names a published checkpoint, "" for none.

        Raises:
            ValueError: another task.
        """
        super().__init__()
        if task not in _TASKS:
            raise ValueError(f"MODEL.MASK2FORMER.TASK is {task!r}, expected one of {_TASKS}")
        self.backbone = backbone
        self.pixel_decoder = pixel_decoder
        self.predictor = predictor
        self.criterion = criterion
        self.task = task
        # Views of an image are averaged as they are: scores, not logits.
        self.sem_seg_output = "scores" if task == "semantic" else ""
        self.num_classes = num_classes
        self.size_divisibility = size_divisibility
        self.detections_per_image = detections_per_image
        self.ignore_value = ignore_value
        self.mask_ignore = mask_ignore
        for name, values in (("pixel_mean", pixel_mean), ("pixel_std", pixel_std)):
            self.register_buffer(name, torch.tensor(values).view(-1, 1, 1), persistent=False)
        if weights:
            load_published(self, weights)

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """Read ``MODEL.MASK2FORMER`` and build the parts."""
        node = cfg.MODEL.MASK2FORMER
        semantic = node.TASK == "semantic"
        head = cfg.MODEL.SEM_SEG_HEAD if semantic else cfg.MODEL.ROI_HEADS
        _require_one_source(node.WEIGHTS, cfg.MODEL.WEIGHTS)
        backbone = build_backbone(cfg)
        decoder, transformer = build_layers(
            _channels(backbone, node.IN_FEATURES),
            hidden_dim=node.HIDDEN_DIM,
            num_heads=node.NUM_HEADS,
            encoder_layers=node.ENCODER_LAYERS,
            encoder_ffn_dim=node.ENCODER_FFN_DIM,
            decoder_layers=node.DECODER_LAYERS,
            decoder_ffn_dim=node.DECODER_FFN_DIM,
            num_queries=node.NUM_QUERIES,
        )
        return {
            "backbone": backbone,
            "pixel_decoder": PixelDecoder(decoder, tuple(node.IN_FEATURES)),
            "predictor": TransformerDecoder(
                transformer, hidden_dim=node.HIDDEN_DIM, num_classes=head.NUM_CLASSES
            ),
            "criterion": MaskCriterion(cfg, num_classes=head.NUM_CLASSES),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "task": node.TASK,
            "num_classes": head.NUM_CLASSES,
            "size_divisibility": node.SIZE_DIVISIBILITY,
            "detections_per_image": cfg.TEST.DETECTIONS_PER_IMAGE,
            "ignore_value": cfg.MODEL.SEM_SEG_HEAD.IGNORE_VALUE,
            "mask_ignore": node.MASK_IGNORE,
            "weights": node.WEIGHTS,
        }

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Losses in training, else a dict for each image with ``instances`` or ``sem_seg``."""
        images = self._images(batched_inputs)
        canvas = (images.tensor.shape[-2], images.tensor.shape[-1])
        predictions = self.predictor(*self.pixel_decoder(self.backbone(images.tensor)))
        if self.training:
            targets = [self._targets(sample, canvas) for sample in batched_inputs]
            return self.criterion(predictions, targets)
        last = predictions[-1]
        return [
            self._found(logits, masks, canvas, size, sample)
            for logits, masks, size, sample in zip(
                last.logits, last.masks, images.image_sizes, batched_inputs, strict=True
            )
        ]

    def _images(self, batched_inputs: list[dict[str, Any]]) -> ImageList:
        pixels = [
            (sample["image"].to(self.device) - self.pixel_mean) / self.pixel_std
            for sample in batched_inputs
        ]
        # At least 32: three maps, of which each is half as large as the one before it.
        return ImageList.from_tensors(pixels, max(self.size_divisibility, _STRIDES[-1]))

    def _targets(self, sample: dict[str, Any], canvas: tuple[int, int]) -> MaskTargets:
        if self.task == "instance":
            return instance_targets(sample, canvas, self.device)
        return semantic_targets(
            sample,
            canvas,
            self.device,
            num_classes=self.num_classes,
            ignore=self.ignore_value,
            mask_ignore=self.mask_ignore,
        )

    def _found(
        self,
        logits: Tensor,
        masks: Tensor,
        canvas: tuple[int, int],
        image_size: tuple[int, int],
        sample: dict[str, Any],
    ) -> dict[str, Any]:
        size = (sample.get("height", image_size[0]), sample.get("width", image_size[1]))
        sizes = {"canvas": canvas, "image_size": tuple(image_size), "size": size}
        if self.task == "semantic":
            return {"sem_seg": class_maps(logits, masks, **sizes)}
        return {"instances": find_instances(logits, masks, top=self.detections_per_image, **sizes)}


def _channels(backbone: Backbone, names: Sequence[str]) -> tuple[int, int, int, int]:
    shapes = backbone.output_shape()
    found = [shapes[name].stride if name in shapes else None for name in names]
    if tuple(found) != _STRIDES:
        raise ValueError(
            f"MODEL.MASK2FORMER.IN_FEATURES {tuple(names)} have strides {found}, expected "
            f"{_STRIDES}; the backbone gives { ({n: s.stride for n, s in shapes.items()}) }"
        )
    first, second, third, fourth = (int(shapes[name].channels) for name in names)
    return first, second, third, fourth


def _require_one_source(published: str, weights: str) -> None:
    """A backbone file in ``MODEL.WEIGHTS`` would silently replace the checkpoint's backbone."""
    if published and "ImageNetPretrained" in weights:
        raise ValueError(
            f"MODEL.MASK2FORMER.WEIGHTS is '{published}', a whole model, and MODEL.WEIGHTS "
            f"'{weights}' would replace its backbone; set MODEL.WEIGHTS ''"
        )
