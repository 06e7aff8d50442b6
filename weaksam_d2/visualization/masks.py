"""Masks as a tint of the image below."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from weaksam_d2.artifacts import Proposals
from weaksam_d2.ops import decode_rle
from weaksam_d2.visualization.colors import class_color

__all__ = ["draw_mask_set", "tint_masks"]

_SHARE = 0.5  # of the color


def tint_masks(
    image: np.ndarray,
    segmentations: Sequence[Mapping[str, Any] | None],
    colors: Sequence[Sequence[float]],
) -> np.ndarray:
    """Return the image with each mask in its color, later ones on top; borders are in full color.

    image: RGB uint8 (H, W, 3). segmentations: compressed COCO RLE of that size, or None.
    colors: RGB in [0, 1].

    Raises:
        ValueError: a mask of another size.
    """
    picture = image.astype(np.float64)
    for code, color in zip(segmentations, colors, strict=True):
        if code is None:
            continue
        size = (int(code["size"][0]), int(code["size"][1]))
        if size != image.shape[:2]:
            raise ValueError(
                f"a mask is {size[0]} x {size[1]} (height x width), its image {image.shape[0]} x "
                f"{image.shape[1]}"
            )
        counts = code["counts"]
        mask = decode_rle([counts.encode() if isinstance(counts, str) else counts], size)[0]
        paint = 255 * np.asarray(color, np.float64)
        picture[mask] = (1 - _SHARE) * image[mask] + _SHARE * paint
        picture[mask & ~_eroded(mask)] = paint
    return picture.round().astype(np.uint8)


def _eroded(mask: np.ndarray) -> np.ndarray:
    """The pixels of a mask whose four neighbors are in it; those outside the image are."""
    padded = np.pad(mask, 1, constant_values=True)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def draw_mask_set(image: np.ndarray, masks: Proposals) -> np.ndarray:
    """Masks of no class, each in a color of its own, smaller ones on top.

    image: RGB uint8 (H, W, 3). masks: an entry of a store with masks, of that size.

    Raises:
        ValueError: the store holds no masks.
    """
    if masks.masks is None:
        raise ValueError(
            "the store holds boxes without masks; make it with WEAKSAM.PROPOSALS.SAVE_MASKS True"
        )
    codes: list[dict[str, Any]] = [
        {"size": masks.image_size, "counts": counts} for counts in masks.masks
    ]
    # One by one: pycocotools cannot take more than 255 of them.
    areas = np.array([int(coco_mask.area(code)) for code in codes], np.int64)
    order = np.argsort(-areas, kind="stable")
    colors = [class_color(number) for number in range(len(codes))]
    return tint_masks(image, [codes[i] for i in order], colors)
