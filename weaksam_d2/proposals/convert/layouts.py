"""How other programs write a box, and the one way we do (XYXY, float32, half-open, from 0)."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from weaksam_d2.artifacts import ForeignFileError

__all__ = ["BoxLayout", "LayoutEvidence", "detect_layout"]

_COLUMNS = {"xyxy": (0, 1, 2, 3), "yxyx": (1, 0, 3, 2), "xywh": (0, 1, 2, 3)}


@dataclass(frozen=True)
class BoxLayout:
    """Order of the four numbers (``xyxy``, ``yxyx`` or ``xywh``), first pixel, and last pixel.

    ``first`` is the number of the first pixel, 0 or 1. ``inclusive``: x2 and y2 are the last
    pixel of the box, so it ends one further (and a width is last minus first).
    """

    order: str
    first: int = 0
    inclusive: bool = False

    def to_boxes(self, rows: Any) -> np.ndarray:
        """Foreign rows (n, 4) to XYXY float32, half-open, from 0; nothing is clipped."""
        # In float64: integers of a file wrap, and float32 loses the last bits when it is shifted.
        boxes = np.asarray(rows).astype(np.float64)[:, _COLUMNS[self.order]]
        # What is too large or not a number stays so, and is left out later.
        with np.errstate(over="ignore", invalid="ignore"):
            if self.order == "xywh":
                boxes[:, 2:] += boxes[:, :2]
            boxes -= self.first
            boxes[:, 2:] += self.inclusive
            return boxes.astype(np.float32)

    def from_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Our boxes (n, 4) as foreign rows, float64; the inverse of :meth:`to_boxes`."""
        rows = boxes.astype(np.float64) + self.first
        rows[:, 2:] -= self.inclusive
        if self.order == "xywh":
            rows[:, 2:] -= rows[:, :2]
        return rows[:, _COLUMNS[self.order]]


@dataclass
class LayoutEvidence:
    """What the boxes of a file prove about their order, gathered image by image."""

    not_xyxy: str = ""
    not_xywh: str = ""

    def add(self, image_id: str, rows: np.ndarray, size: tuple[int, int]) -> None:
        """Look at foreign rows (n, 4) of an image of (height, width)."""
        rows = np.asarray(rows).astype(np.float64)
        height, width = size
        x, y, a, b = rows.T
        # NaN proves nothing, and a box without area (0, 0, 0, 0) is an empty mask in both orders.
        with np.errstate(over="ignore", invalid="ignore"):
            falls = np.flatnonzero((a < x) | (b < y))
            leaves = np.flatnonzero((x + a > width + 1) | (y + b > height + 1))
        if len(falls) and not self.not_xyxy:
            self.not_xyxy = f"{rows[falls[0]].tolist()} of image {image_id!r} falls as XYXY"
        if len(leaves) and not self.not_xywh:
            box = rows[leaves[0]].tolist()
            self.not_xywh = f"{box} of image {image_id!r} ({width} x {height}) leaves it as XYWH"


def detect_layout(where: str, evidence: LayoutEvidence) -> str:
    """``xyxy`` or ``xywh``, whichever the boxes of a file prove.

    Raises:
        ForeignFileError: they prove neither, or both to be wrong.
    """
    if bool(evidence.not_xyxy) == bool(evidence.not_xywh):
        found = (
            f"{evidence.not_xyxy}, and {evidence.not_xywh}"
            if evidence.not_xyxy
            else "every box is possible both as XYXY and as XYWH"
        )
        raise ForeignFileError(f"{where}: {found}; say which it is with --box-format")
    return "xywh" if evidence.not_xyxy else "xyxy"
