"""The training mapper of Mask2Former: large-scale jitter of image, masks and labels."""

import copy
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.data import detection_utils as utils
from detectron2.data import transforms as T
from detectron2.structures import BitMasks, Boxes, Instances, polygons_to_bitmask
from pycocotools import mask as mask_util

from weaksam_d2.data import DATASET_MAPPER_REGISTRY, read_record_label

__all__ = ["Mask2FormerMapper"]

_NO_LABEL = 255
_PADDING = 128.0  # gray level around an image that does not fill the square


@DATASET_MAPPER_REGISTRY.register()
class Mask2FormerMapper(DatasetMapper):  # type: ignore[misc]
    """Resize, cut out and fill up to a square; masks come from run lengths or polygons.

    Records of annotated data sets and pseudo ground truth (``annotations`` with ``segmentation``)
    give ``instances`` with ``gt_masks`` (BitMasks) and tight ``gt_boxes``; objects that were cut
    off are left out. Records with ``sem_seg_file_name`` (indices, 255 is no label; semantic task)
    give ``sem_seg`` (H, W) int64, 255 where the square is filled up. In evaluation it is
    detectron2's mapper.

    Source: Mask2Former, Sec. 4.1 (large-scale jitter: Ghiasi et al., 2021).
    """

    takes_annotations = True

    @staticmethod
    def takes_labels(cfg: Any) -> bool:
        """Whether the training set has label images: in the semantic task."""
        return bool(cfg.MODEL.MASK2FORMER.TASK == "semantic")

    @configurable
    def __init__(self, is_train: bool, *, semantic: bool = False, **kwargs: Any) -> None:
        """Take the parent's arguments; ``semantic`` reads label images instead of annotations."""
        super().__init__(is_train, **kwargs)
        self.semantic = semantic

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Read ``INPUT.LSJ``, ``INPUT.RANDOM_FLIP`` and ``MODEL.MASK2FORMER.TASK``."""
        arguments: dict[str, Any] = super().from_config(cfg, is_train)
        semantic = cfg.MODEL.MASK2FORMER.TASK == "semantic"
        if is_train:
            arguments["augmentations"] = _jitter(cfg, label_padding=_NO_LABEL if semantic else 0)
        return {**arguments, "semantic": semantic}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Raises:
            ValueError: an object has no mask, or the record no labels; names the image.
        """
        if not self.is_train:
            sample: dict[str, Any] = super().__call__(
                {k: v for k, v in dataset_dict.items() if k != "sem_seg_file_name"}
            )
            return sample
        sample = copy.deepcopy(dataset_dict)
        image = utils.read_image(sample["file_name"], format=self.image_format)
        utils.check_image_size(sample, image)
        labels = self._labels(sample) if self.semantic else None
        seen = T.AugInput(image, sem_seg=labels)
        transforms = self.augmentations(seen)
        sample["image"] = torch.as_tensor(np.ascontiguousarray(seen.image.transpose(2, 0, 1)))
        annotations = sample.pop("annotations", [])
        if seen.sem_seg is not None:
            sample["sem_seg"] = torch.as_tensor(seen.sem_seg.astype("int64"))
            return sample
        rows = [row for row in annotations if not row.get("iscrowd", 0)]
        masks = [transforms.apply_segmentation(_mask(row, sample, image.shape[:2])) for row in rows]
        size = (seen.image.shape[0], seen.image.shape[1])
        sample["instances"] = _instances(rows, masks, size)
        return sample

    def _labels(self, sample: dict[str, Any]) -> np.ndarray:
        if "sem_seg_file_name" not in sample:
            raise ValueError(
                f"the record of image '{sample.get('image_id')}' ({sample['file_name']}) has no "
                "sem_seg_file_name, which MODEL.MASK2FORMER.TASK 'semantic' needs"
            )
        labels = read_record_label(sample)
        for key in ("sem_seg_file_name", "sem_seg_lut"):
            sample.pop(key, None)
        return labels


def _jitter(cfg: Any, *, label_padding: int) -> list[T.Augmentation]:
    node = cfg.INPUT.LSJ
    steps: list[T.Augmentation] = []
    if cfg.INPUT.RANDOM_FLIP not in ("none", "horizontal"):
        raise ValueError(
            f"INPUT.RANDOM_FLIP is {cfg.INPUT.RANDOM_FLIP!r}; Mask2FormerMapper knows 'none' and "
            "'horizontal'"
        )
    if cfg.INPUT.RANDOM_FLIP == "horizontal":
        steps.append(T.RandomFlip())
    low, high = node.SCALE
    # Masks are padded with nothing: detectron2's default, 255, would be a part of each object.
    fill = T.FixedSizeCrop((node.SIZE, node.SIZE), pad_value=_PADDING, seg_pad_value=label_padding)
    return [*steps, T.ResizeScale(low, high, node.SIZE, node.SIZE), fill]


def _mask(row: dict[str, Any], sample: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    """Mask uint8 (H, W) of an annotation, in the original image."""
    outline = row.get("segmentation")
    where = f"image '{sample.get('image_id')}' ({sample.get('file_name')})"
    if isinstance(outline, list) and outline:
        polygons = [np.asarray(polygon, dtype=np.float64) for polygon in outline]
        mask = polygons_to_bitmask(polygons, *size).astype(np.uint8)
    elif isinstance(outline, dict):
        if isinstance(outline["counts"], list):
            outline = mask_util.frPyObjects(outline, *outline["size"])
        mask = mask_util.decode(outline)
    else:
        raise ValueError(
            f"an object of {where} has no mask; generate the pseudo ground truth with masks "
            "(the stage 'masks', tools/generate_instance_masks.py), or use a data set that has them"
        )
    if mask.shape != tuple(size):
        raise ValueError(f"a mask of {where} has size {mask.shape}, the image {tuple(size)}")
    return mask


def _instances(
    rows: list[dict[str, Any]], masks: list[np.ndarray], size: tuple[int, int]
) -> Instances:
    """Objects of which something is left after the cut, with tight boxes."""
    left = [number for number, mask in enumerate(masks) if mask.any()]
    stacked = np.zeros((len(left), *size), dtype=bool)
    for place, number in enumerate(left):
        stacked[place] = masks[number]
    instances = Instances(size)
    instances.gt_masks = BitMasks(torch.from_numpy(stacked))
    boxes = instances.gt_masks.get_bounding_boxes() if left else Boxes(torch.zeros(0, 4))
    instances.gt_boxes = boxes
    classes = [rows[number]["category_id"] for number in left]
    instances.gt_classes = torch.tensor(classes, dtype=torch.int64)
    return instances
