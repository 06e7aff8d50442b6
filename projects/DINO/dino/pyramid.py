"""Where the tokens of several feature levels lie in the image, and which of them are padding."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

__all__ = ["Pyramid", "make_pyramid"]


@dataclass(frozen=True)
class Pyramid:
    """Geometry of L feature levels of N padded images, S cells in all, row by row.

    Attributes:
        shapes: (height, width) of each level, padding included.
        filled: float32 (N, L, 2), columns and rows of a level that lie in the image.
        valid: bool (N, S), cells that lie in the image.
        cells: float32 (S, 2), column and row of a cell in its level.
    """

    shapes: tuple[tuple[int, int], ...]
    filled: Tensor
    valid: Tensor
    cells: Tensor

    @cached_property
    def sizes(self) -> Tensor:
        """``shapes`` as int64 (L, 2), where the other tensors are."""
        return torch.tensor(self.shapes, device=self.valid.device)

    @cached_property
    def starts(self) -> Tensor:
        """Index of the first cell of each level, int64 (L,)."""
        areas = self.sizes.prod(dim=1)
        return areas.cumsum(dim=0) - areas

    @cached_property
    def ratios(self) -> Tensor:
        """Share of a level that lies in the image, (N, L, 2): x, y."""
        return self.filled / self.sizes.flip(-1)

    @cached_property
    def centers(self) -> Tensor:
        """Centers of the cells (N, S, 2): x, y in units of the unpadded image."""
        return (self.cells + 0.5) / self.by_cell(self.filled)

    def by_cell(self, values: Tensor) -> Tensor:
        """Values of levels (..., L, k) for every cell (..., S, k)."""
        areas = [height * width for height, width in self.shapes]
        parts = [
            values[..., i : i + 1, :].expand(*values.shape[:-2], area, -1)
            for i, area in enumerate(areas)
        ]
        return torch.cat(parts, dim=-2)


def make_pyramid(
    shapes: Sequence[tuple[int, int]],
    image_sizes: Sequence[tuple[int, int]],
    padded_size: tuple[int, int],
    device: torch.device,
) -> Pyramid:
    """Make the geometry of a batch.

    Args:
        shapes: (height, width) of each level.
        image_sizes: true (height, width) of each image, pixels.
        padded_size: (height, width) of the batch, pixels.
        device: where the tensors are made.
    """
    filled = torch.tensor(
        [[_filled(size, padded_size, shape) for shape in shapes] for size in image_sizes],
        dtype=torch.float32,
        device=device,
    )
    cells = torch.cat([_cells(shape, device) for shape in shapes])
    pyramid = Pyramid(tuple(shapes), filled, torch.empty(0), cells)
    return Pyramid(tuple(shapes), filled, (cells < pyramid.by_cell(filled)).all(dim=-1), cells)


def _filled(
    size: tuple[int, int], padded: tuple[int, int], shape: tuple[int, int]
) -> tuple[int, int]:
    """Columns and rows whose first pixel lies in the image: the nearest-neighbor mask."""
    height, width = (math.ceil(s * n / p) for s, p, n in zip(size, padded, shape, strict=True))
    return width, height


def _cells(shape: tuple[int, int], device: torch.device) -> Tensor:
    rows, columns = (torch.arange(n, dtype=torch.float32, device=device) for n in shape)
    grid = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack([grid[1], grid[0]], dim=-1).flatten(0, 1)
