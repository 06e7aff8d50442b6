"""The training views of DETR and its descendants."""

from typing import Any

from detectron2.config import configurable
from detectron2.data import transforms as T

from weaksam_d2.data.annotation_fields import AnnotationFieldsMapper
from weaksam_d2.data.weak_mapper import DATASET_MAPPER_REGISTRY

__all__ = ["DetrMapper", "detr_crop"]

_FIRST_SIZES = (400, 500, 600)  # pixels, shorter side before the crop
_CROP_SIDES = (384, 600)  # pixels, smallest and largest


@DATASET_MAPPER_REGISTRY.register()
class DetrMapper(AnnotationFieldsMapper):
    """Image and boxes; with ``INPUT.DETR_CROP`` every other training view is a crop.

    Everything else (sizes, flips, numbers that travel with their boxes) is as in the parent and in
    detectron2's mapper. A box is cut at the border of the crop, one outside of it is left out.

    Source: DETR, App. A.4; weaksam.md, Sec. 9.
    """

    takes_annotations = True

    @configurable
    def __init__(self, is_train: bool, **kwargs: Any) -> None:
        """Take the parent's arguments."""
        super().__init__(is_train, **kwargs)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """As the parent, and ``INPUT.DETR_CROP``.

        Raises:
            ValueError: ``INPUT.CROP.ENABLED`` as well, which would crop twice.
        """
        args: dict[str, Any] = super().from_config(cfg, is_train)
        if not (is_train and cfg.INPUT.DETR_CROP):
            return args
        if cfg.INPUT.CROP.ENABLED:
            raise ValueError(
                "INPUT.CROP.ENABLED and INPUT.DETR_CROP are both True; set one of them to False"
            )
        return {**args, "augmentations": [detr_crop(), *args["augmentations"]]}


def detr_crop() -> T.Augmentation:
    """With probability 1/2 resize to a shorter side of 400, 500 or 600 pixels and crop.

    Height and width of the crop are drawn between 384 and 600 pixels, or the image's if that is
    smaller. The usual resizing follows, also where nothing is cropped.
    """
    crop = T.AugmentationList(
        [
            T.ResizeShortestEdge(_FIRST_SIZES, sample_style="choice"),
            T.RandomCrop("absolute_range", _CROP_SIDES),
        ]
    )
    return T.RandomApply(crop, prob=0.5)
