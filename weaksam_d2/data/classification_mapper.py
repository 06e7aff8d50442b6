"""Augmented views for training image classifiers, by timm's own transform."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from PIL import Image
from timm.data import create_transform
from torch import Tensor

from weaksam_d2.data.images import read_image
from weaksam_d2.data.weak_mapper import DATASET_MAPPER_REGISTRY, ImageLabelMapper

__all__ = ["ClassificationMapper"]


@DATASET_MAPPER_REGISTRY.register()
class ClassificationMapper(ImageLabelMapper):
    """Image and image-level classes; in training a square augmented view of fixed size.

    Random resized crop (bicubic), mirror image, RandAugment, color jitter and random erasing, in
    the order of the recipes of DeiT and of the classifiers made from it (wsss.md, Sec. 3.3).
    ``image`` is float32 (3, size, size) on the scale of 0-255, about, since erased pixels are
    normally distributed. In evaluation this is :class:`ImageLabelMapper`.

    NOTE: a random crop may miss the object that a tag is about. The published recipes accept
    this noise; ``ImageLabelMapper`` has none of it.
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        size: int = 224,
        crop_scale: tuple[float, float] = (0.08, 1.0),
        auto_augment: str = "rand-m9-mstd0.5-inc1",
        color_jitter: float = 0.4,
        erase_prob: float = 0.25,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        **kwargs: Any,
    ) -> None:
        """Take ``ImageLabelMapper``'s arguments and those of the transform.

        Args:
            size: height and width of a view, pixels.
            crop_scale: smallest and largest share of the image's area in a crop.
            auto_augment: timm's name of an augmentation; "" for none.
            color_jitter: strength; timm leaves it out where there is an auto_augment.
            erase_prob: probability that a rectangle is replaced by noise.
            pixel_mean: of the image's channels, 0-255; the noise has this mean,
            pixel_std: and this deviation.

        Raises:
            ValueError: a view without whole pixels, or a share outside of (0, 1].
        """
        super().__init__(is_train, **kwargs)
        low, high = crop_scale
        if size < 1 or not 0 < low <= high <= 1:
            raise ValueError(
                f"INPUT.CLASSIFICATION has SIZE {size} and CROP_SCALE {tuple(crop_scale)}, "
                "expected SIZE of at least 1 and 0 < lowest <= highest <= 1"
            )
        self.pixel_mean = torch.tensor(pixel_mean).view(3, 1, 1)
        self.pixel_std = torch.tensor(pixel_std).view(3, 1, 1)
        self.transform = create_transform(
            size,
            is_training=True,
            scale=(low, high),
            color_jitter=color_jitter,
            auto_augment=auto_augment or None,
            interpolation="bicubic",
            re_prob=erase_prob,
            re_mode="pixel",
            re_count=1,
            mean=tuple(value / 255 for value in self._rgb(pixel_mean)),
            std=tuple(value / 255 for value in self._rgb(pixel_std)),
        )

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Read ``INPUT``, ``INPUT.CLASSIFICATION`` and the pixel statistics of ``MODEL``."""
        node = cfg.INPUT.CLASSIFICATION
        return {
            **super().from_config(cfg, is_train),
            "size": node.SIZE,
            "crop_scale": tuple(node.CROP_SCALE),
            "auto_augment": node.AUTO_AUGMENT,
            "color_jitter": node.COLOR_JITTER,
            "erase_prob": node.ERASE_PROB,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
        }

    def map_image(self, record: dict[str, Any]) -> dict[str, Any]:
        """In training the augmented view as ``image``; else as detectron2's mapper."""
        if not self.is_train:
            return super().map_image(record)
        pixels = read_image(record["file_name"])  # RGB: color augmentations know no other order
        _check_size(record, pixels)
        view: Tensor = self.transform(Image.fromarray(pixels))
        view = view.flip(0) if self.image_format == "BGR" else view
        record["image"] = view * self.pixel_std + self.pixel_mean
        return record

    def _rgb(self, values: Sequence[float]) -> Sequence[float]:
        return values[::-1] if self.image_format == "BGR" else values


def _check_size(record: dict[str, Any], pixels: np.ndarray) -> None:
    expected = (record.get("height"), record.get("width"))
    if None not in expected and pixels.shape[:2] != expected:
        raise ValueError(
            f"image {record['file_name']} is {pixels.shape[0]} x {pixels.shape[1]} (height x "
            f"width), the data set says {expected[0]} x {expected[1]}"
        )
