"""A label map made of the masks of objects."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

__all__ = ["paint_first_wins", "to_rle"]

Rle = dict[str, Any]


def to_rle(segmentation: Any, size: tuple[int, int]) -> Rle:
    """A COCO ``segmentation`` (polygons, or any kind of RLE) as compressed RLE.

    size: (height, width) of the image.
    """
    if isinstance(segmentation, list):
        return dict(coco_mask.merge(coco_mask.frPyObjects(segmentation, *size)))
    if isinstance(segmentation["counts"], list):
        return dict(coco_mask.frPyObjects(segmentation, *size))
    return dict(segmentation)


def paint_first_wins(
    segmentations: Sequence[Any], labels: Sequence[int], size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Paint objects in their order; a pixel keeps the first label, pixels of none are 0.

    segmentations: as COCO stores them. labels: one for each, 0 … 255. Returns uint8 (H, W).

    Raises:
        ValueError: a mask of another size, or not one label for each mask.
        Source: wsss.md, Sec. 0.3 (semantic ground truth of COCO).
    """
    painted = np.zeros(size, np.uint8)
    # From the last to the first: what is painted later covers what was painted before.
    for segmentation, label in reversed(list(zip(segmentations, labels, strict=True))):
        mask = coco_mask.decode(to_rle(segmentation, size))
        if mask.shape != tuple(size):
            raise ValueError(f"a mask is {mask.shape}, its image {tuple(size)} (height, width)")
        painted[mask.view(bool)] = label
    return painted
