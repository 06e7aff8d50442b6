"""A stand-in for SAM that draws discs and boxes, so that stages can be tested in seconds."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from torch import Tensor

from weaksam_d2.artifacts import Prompts
from weaksam_d2.ops.masks import masks_to_boxes, stability_score
from weaksam_d2.sam.backend import Embedding, SamChunk
from weaksam_d2.sam.build import SAM_BACKEND_REGISTRY
from weaksam_d2.sam.chunks import check_image, check_want

__all__ = ["FakeSam"]

_SHARES = (0.5, 1.0, 2.0)  # the three nested masks: part, object, whole
_QUALITY = (0.9, 0.8, 0.7)


@SAM_BACKEND_REGISTRY.register()
class FakeSam:
    """Deterministic masks without a network; never a stand-in in a demo or a figure.

    A point prompt gives three nested discs around each of its points; a box prompt gives the box
    shrunk to half, as it is, and clipped at twice its size. ``quality`` is 0.9, 0.8, 0.7.

    Args:
        radius: of the middle disc, as a share of the image's longest side.
        prompts_per_batch: prompts of a chunk.
    """

    @configurable
    def __init__(self, *, radius: float = 0.125, prompts_per_batch: int = 64) -> None:
        if radius <= 0 or prompts_per_batch < 1:
            raise ValueError(
                f"radius and prompts_per_batch must be positive, got {radius}, {prompts_per_batch}"
            )
        self._radius = radius
        self._prompts_per_batch = prompts_per_batch

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the constructor's arguments from ``WEAKSAM.SAM``."""
        return {"prompts_per_batch": cfg.WEAKSAM.SAM.POINTS_PER_BATCH}

    def encode(self, image: np.ndarray) -> Embedding:
        """Return an embedding that holds nothing but the size of an HWC uint8 image."""
        check_image(image)
        size = (int(image.shape[0]), int(image.shape[1]))
        return Embedding(torch.zeros(1, 1, 1, 1), size, size)

    def decode(
        self,
        embedding: Embedding,
        prompts: Prompts,
        *,
        want: frozenset[str] = frozenset({"boxes"}),
        multimask: bool = True,
    ) -> Iterator[SamChunk]:
        """Yield the masks of the prompts, in their order; ``logits`` are at image resolution."""
        check_want(want)
        for start in range(0, len(prompts), self._prompts_per_batch):
            stop = min(start + self._prompts_per_batch, len(prompts))
            logits = torch.stack(
                [self._draw(prompts, row, embedding.image_size) for row in range(start, stop)]
            )
            quality = torch.tensor(_QUALITY).repeat(stop - start, 1)
            if not multimask:
                logits, quality = logits[:, 1:2], quality[:, 1:2]
            yield SamChunk(
                start=start,
                boxes=masks_to_boxes(logits > 0),
                quality=quality,
                stability=stability_score(logits),
                logits=logits if "logits" in want else None,
                masks=logits > 0 if "masks" in want else None,
            )

    def _draw(self, prompts: Prompts, row: int, size: tuple[int, int]) -> Tensor:
        """Logits (3, H, W): pixels inside the shape's edge, negative outside."""
        y = torch.arange(size[0])[:, None] + 0.5
        x = torch.arange(size[1])[None, :] + 0.5
        points = prompts.points[prompts.offsets[row] : prompts.offsets[row + 1]]
        if len(points):
            px, py = torch.from_numpy(np.asarray(points, dtype=np.float32)).T[:, :, None, None]
            distance = torch.hypot(x - px, y - py).amin(dim=0)
            return torch.stack([s * self._radius * max(size) - distance for s in _SHARES])
        if prompts.boxes is None or np.isnan(prompts.boxes[row]).any():
            raise ValueError(f"prompt {row} has neither points nor a box")
        x0, y0, x1, y1 = (float(v) for v in prompts.boxes[row])
        dx, dy = (x - (x0 + x1) / 2).abs(), (y - (y0 + y1) / 2).abs()
        return torch.stack(
            [torch.minimum(s * (x1 - x0) / 2 - dx, s * (y1 - y0) / 2 - dy) for s in _SHARES]
        )
