"""SAM's way from low-resolution logits to masks of the image, as one pair of matrices.

segment_anything resizes (h, w) logits to the square network input, crops the padding and resizes
to the image. Both steps are linear and separable, so the whole is ``R @ logits @ C.T`` with an
(H, h) matrix R and a (W, w) matrix C; the square in between is never made.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from weaksam_d2.ops.masks import masks_above, masks_to_boxes, resize_matrix, stability_score

__all__ = ["BOXES_AT", "MaskReader", "interpolation_matrix"]

BOXES_AT = ("full", "low")

# Full-size pixels in flight: few on a CPU, where they should stay in the cache.
_PIXELS = {"cpu": 1 << 20}
_OTHER_PIXELS = 1 << 28


def interpolation_matrix(low: int, square: int, crop: int, size: int) -> Tensor:
    """Matrix of the bilinear resizes low → square → (first ``crop``) → size along one axis.

    Returns:
        float64 (size, low); rows sum to one.
    """
    up = resize_matrix(low, square, dtype=torch.float64)[:crop]
    return resize_matrix(crop, size, dtype=torch.float64) @ up


class MaskReader:
    """Boxes, stability and masks from the low-resolution logits of one image.

    Args:
        low_size: (height, width) of the logits.
        square: side of the network input in pixels.
        input_size: (height, width) of the resized image inside the square. Where the image fills
            the square and its ratio is not kept, give ``low_size`` as both (one resize).
        image_size: (height, width) of the image, in pixels.
        boxes_at: ``full``: masks at image resolution, as SAM has them; ``low``: masks at the
            resolution of the logits and their boxes scaled, in steps of some pixels.
    """

    def __init__(
        self,
        *,
        low_size: tuple[int, int],
        square: int,
        input_size: tuple[int, int],
        image_size: tuple[int, int],
        boxes_at: str = "full",
    ) -> None:
        if boxes_at not in BOXES_AT:
            raise ValueError(f"boxes_at must be one of {BOXES_AT}, got '{boxes_at}'")
        self._boxes_at = boxes_at
        self._image_size = image_size
        self._scale = [low * real / square for low, real in zip(low_size, input_size, strict=True)]
        rows, columns = (
            interpolation_matrix(low, square, crop, size)
            for low, crop, size in zip(low_size, input_size, image_size, strict=True)
        )
        # The padding has no weight: leave its columns out of the products.
        self._used = (_num_used(rows), _num_used(columns))
        self._rows = rows[:, : self._used[0]].float()
        self._columns = columns[:, : self._used[1]].T.float().contiguous()

    def upsample(self, logits: Tensor) -> Tensor:
        """Return (..., h, w) logits at image resolution, float32 (..., H, W)."""
        rows, columns = self._rows.to(logits), self._columns.to(logits)
        logits = logits[..., : self._used[0], : self._used[1]]
        if self._image_size[0] <= self._image_size[1]:  # the cheaper order
            return (rows @ logits) @ columns
        return rows @ (logits @ columns)

    def read(self, logits: Tensor, *, masks: bool = False) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return float32 boxes (P, M, 4), stability (P, M) and, if asked for, masks (P, M, H, W).

        Args:
            logits: float (P, M, h, w).
            masks: whether bool masks at image resolution are returned.
        """
        shape, flat = logits.shape[:2], logits.flatten(0, 1)
        boxes = flat.new_zeros((len(flat), 4))
        stability = flat.new_zeros(len(flat))
        found = flat.new_zeros((len(flat), *self._image_size), dtype=torch.bool) if masks else None
        if self._boxes_at == "low":
            boxes, stability = self._read_low(flat)
        for part in self._parts(flat) if masks or self._boxes_at == "full" else ():
            full = self.upsample(flat[part])
            mask = masks_above(full)
            if found is not None:
                found[part] = mask
            if self._boxes_at == "full":
                boxes[part] = masks_to_boxes(mask)
                stability[part] = stability_score(full)
        found = None if found is None else found.unflatten(0, shape)
        return boxes.unflatten(0, shape), stability.unflatten(0, shape), found

    def _parts(self, flat: Tensor) -> Iterator[slice]:
        pixels = self._image_size[0] * self._image_size[1]
        step = max(1, _PIXELS.get(flat.device.type, _OTHER_PIXELS) // pixels)
        for start in range(0, len(flat), step):
            yield slice(start, start + step)

    def _read_low(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        height, width = (math.ceil(side) for side in self._scale)
        flat = flat[..., :height, :width]
        boxes = masks_to_boxes(masks_above(flat))
        scale = boxes.new_tensor(
            [s / n for s, n in zip(self._image_size, self._scale, strict=True)]
        )
        limit = boxes.new_tensor(self._image_size).flip(0).repeat(2)
        return torch.minimum(boxes * scale.flip(0).repeat(2), limit), stability_score(flat)


def _num_used(matrix: Tensor) -> int:
    return int(matrix.any(dim=0).nonzero().max()) + 1
