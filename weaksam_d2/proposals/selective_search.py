"""Selective Search, the classic proposals to compare with (Uijlings et al., IJCV 2013)."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable

from weaksam_d2.artifacts import Prompts, Proposals

from .build import PROPOSAL_METHOD_REGISTRY
from .filter import clean_boxes

__all__ = ["SelectiveSearch"]


@PROPOSAL_METHOD_REGISTRY.register()
class SelectiveSearch:
    """OpenCV's Selective Search in its "fast" setting; needs no prompts and no network.

    NOTE: OpenCV orders its boxes with the C library's unseeded random numbers, so the order
    changes with every run. Ours keeps the set and orders it as the paper does (place in the
    hierarchy, here by falling area, times a random number), with a fixed seed.
    """

    source_names = ("SelectiveSearch",)

    @configurable
    def __init__(self, *, step: float = 1 / 16, max_boxes: int = 2000, seed: int = 0) -> None:
        """step and max_boxes as in clean_boxes; ImportError without OpenCV's contrib modules."""
        _segmentation()  # absent: now and not after hours
        self.step = step
        self.max_boxes = max_boxes
        self.seed = seed

    @classmethod
    def from_config(cls, cfg: Any) -> dict[str, Any]:
        """The constructor's arguments from ``WEAKSAM.PROPOSALS``."""
        node = cfg.WEAKSAM.PROPOSALS
        return {"step": node.DEDUPLICATE, "max_boxes": node.MAX_PER_IMAGE}

    def __call__(
        self, image: np.ndarray, prompts: Prompts | None, grid: Mapping[str, Any] | None
    ) -> Proposals:
        """Boxes of an RGB uint8 image (H, W, 3); prompts and grid are not looked at."""
        size = (image.shape[0], image.shape[1])
        boxes = torch.from_numpy(self._ordered(_search(image)))
        boxes, _ = clean_boxes(boxes, size, step=self.step, max_boxes=self.max_boxes)
        return Proposals(
            boxes=boxes.numpy(),
            image_size=size,
            scores=None,
            stability=None,
            sources=np.zeros(len(boxes), np.uint8),
            source_names=self.source_names,
        )

    def _ordered(self, boxes: np.ndarray) -> np.ndarray:
        x1, y1, x2, y2 = boxes.T
        order = np.lexsort((x2, y1, x1, -(x2 - x1) * (y2 - y1)))
        place = np.arange(1, len(boxes) + 1) * np.random.default_rng(self.seed).random(len(boxes))
        ranked: np.ndarray = boxes[order][np.argsort(place, kind="stable")]
        return ranked


def _search(image: np.ndarray) -> np.ndarray:
    """Boxes float32 (n, 4) XYXY, half-open, in no particular order."""
    search = _segmentation().createSelectiveSearchSegmentation()
    search.setBaseImage(np.ascontiguousarray(image[:, :, ::-1]))
    search.switchToSelectiveSearchFast()
    boxes = np.asarray(search.process(), np.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes


def _segmentation() -> Any:
    """``cv2.ximgproc.segmentation``; OpenCV is an optional package."""
    try:
        import cv2

        return cv2.ximgproc.segmentation
    except (ImportError, AttributeError) as error:
        raise ImportError(
            f"WEAKSAM.PROPOSALS.METHOD SelectiveSearch needs cv2.ximgproc ({error}); run 'pip "
            "uninstall opencv-python opencv-python-headless', then 'pip install "
            "opencv-contrib-python-headless'"
        ) from error
