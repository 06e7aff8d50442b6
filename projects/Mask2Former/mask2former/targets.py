"""What a sample of a data loader asks the network for."""

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.structures import BitMasks, PolygonMasks
from torch import Tensor
from torch.nn import functional as F

from .outputs import MaskTargets

__all__ = ["instance_targets", "semantic_targets"]


def instance_targets(
    sample: Mapping[str, Any], canvas: tuple[int, int], device: torch.device
) -> MaskTargets:
    """Classes and masks of ``instances``, padded with nothing to the canvas (height, width).

    Raises:
        ValueError: no instances, or instances without masks; names the image.
    """
    where = f"image '{sample.get('image_id')}' ({sample.get('file_name')})"
    if "instances" not in sample:
        raise ValueError(
            f"{where} has no instances; MODEL.MASK2FORMER.TASK 'instance' trains on annotated data "
            "sets or on DATASETS.PSEUDO_GT_TRAIN, with INPUT.MAPPER_NAME Mask2FormerMapper"
        )
    instances = sample["instances"]
    if not len(instances):
        empty = torch.zeros((0, *canvas), dtype=torch.bool, device=device)
        return MaskTargets(torch.zeros(0, dtype=torch.int64, device=device), empty)
    if not instances.has("gt_masks"):
        raise ValueError(
            f"the objects of {where} have no masks; set MODEL.MASK_ON True and use data (or a "
            "pseudo_gt.json) that has them"
        )
    masks = instances.gt_masks
    if isinstance(masks, PolygonMasks):
        masks = BitMasks.from_polygon_masks(masks, *instances.image_size)
    classes = instances.gt_classes.to(device, torch.int64)
    return MaskTargets(classes, _padded(masks.tensor.to(device, torch.bool), canvas, False))


def semantic_targets(
    sample: Mapping[str, Any],
    canvas: tuple[int, int],
    device: torch.device,
    *,
    num_classes: int,
    ignore: int,
    mask_ignore: bool,
) -> MaskTargets:
    """A mask for each class of ``sem_seg`` (H, W), in rising order; padding is without label.

    ignore: value of pixels without label. They are in no mask; ``mask_ignore``: nor are they
    looked at.

    Raises:
        ValueError: no ``sem_seg``, or a class that is too large; names the image.
    """
    where = f"image '{sample.get('image_id')}' ({sample.get('file_name')})"
    if "sem_seg" not in sample:
        raise ValueError(
            f"{where} has no sem_seg; MODEL.MASK2FORMER.TASK 'semantic' trains on records with "
            "sem_seg_file_name, with INPUT.MAPPER_NAME Mask2FormerMapper"
        )
    labels = _padded(sample["sem_seg"].to(device, torch.int64), canvas, ignore)
    classes = labels.unique()
    classes = classes[classes != ignore]
    if len(classes) and not 0 <= int(classes.min()) <= int(classes.max()) < num_classes:
        raise ValueError(
            f"the labels of {where} are {classes.tolist()}, expected 0 to {num_classes - 1} or "
            f"{ignore} (no label); look at MODEL.SEM_SEG_HEAD.NUM_CLASSES and IGNORE_VALUE"
        )
    valid = labels != ignore if mask_ignore else None
    return MaskTargets(classes, labels[None] == classes[:, None, None], valid)


def _padded(maps: Tensor, canvas: tuple[int, int], value: int | bool) -> Tensor:
    missing = (0, canvas[1] - maps.shape[-1], 0, canvas[0] - maps.shape[-2])
    return F.pad(maps, missing, value=value)
