"""Bilinear upsampling as two small matrices, and what follows from it without upsampling."""

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["BilinearAxis", "scatter_mass", "upsampled_norm"]

_EPS = 1e-12  # of a feature's norm


class BilinearAxis(NamedTuple):
    """Where the pixels of one axis lie between the cells of a coarser one (align_corners False).

    Pixel i lies between cells ``low[i]`` and ``high[i]`` (int64 (n,)) with weights ``1 - share[i]``
    and ``share[i]`` (float64 (n,)).
    """

    cells: int
    low: Tensor
    high: Tensor
    share: Tensor

    @classmethod
    def between(cls, cells: int, pixels: int, device: torch.device) -> "BilinearAxis":
        """The places that ``interpolate(mode="bilinear")`` reads for this many pixels."""
        place = torch.arange(pixels, device=device, dtype=torch.float64)
        place = ((place + 0.5) * (cells / pixels) - 0.5).clamp_(min=0)
        low = place.long().clamp_(max=cells - 1)
        return cls(cells, low, (low + 1).clamp_(max=cells - 1), place - low)

    def matrix(self) -> Tensor:
        """Float64 (n, cells): times a column of cells it gives the pixels."""
        return self._spread(1 - self.share, self.share)

    def squares(self) -> Tensor:
        """Float64 (n, cells): the squared weights."""
        return self._spread((1 - self.share) ** 2, self.share**2)

    def products(self) -> Tensor:
        """Float64 (n, cells): twice the product of both weights, at the lower cell."""
        return self._spread(2 * self.share * (1 - self.share), torch.zeros_like(self.share))

    def _spread(self, first: Tensor, second: Tensor) -> Tensor:
        matrix = first.new_zeros(len(first), self.cells)
        matrix.scatter_add_(1, self.low[:, None], first[:, None])
        return matrix.scatter_add_(1, self.high[:, None], second[:, None])


def upsampled_norm(features: Tensor, rows: BilinearAxis, columns: BilinearAxis) -> Tensor:
    """Norm over the channels of upsampled features, which are never made; with gradient.

    features: float64 (D, h, w). A pixel's squared norm is a quadratic form of the products of the
    four cells around it, and each weight in it is one of the row times one of the column. Returns
    float64 (H, W); zero, without gradient, below 1e-12.
    """
    below = torch.cat([features[:, 1:], features[:, -1:]], dim=1)
    right = torch.cat([features[..., 1:], features[..., -1:]], dim=2)
    corner = torch.cat([below[..., 1:], below[..., -1:]], dim=2)
    diagonals = (features * corner + below * right).sum(dim=0)
    row_squares, row_products = rows.squares(), rows.products()
    column_squares, column_products = columns.squares().T, columns.products().T
    squared = row_squares @ (features * features).sum(dim=0) @ column_squares
    squared = squared + row_products @ (features * below).sum(dim=0) @ column_squares
    squared = squared + row_squares @ (features * right).sum(dim=0) @ column_products
    squared = squared + row_products @ diagonals @ column_products / 2
    return torch.where(squared < _EPS**2, 0.0, squared.clamp(min=_EPS**2).sqrt())


def scatter_mass(
    mass: Tensor, ids: Tensor, count: int, rows: BilinearAxis, columns: BilinearAxis
) -> Tensor:
    """For each id the mass that its pixels lay on each cell: the transpose of the upsampling.

    mass: float64 (H, W). ids: int64 (H, W), below count. Returns float64 (count, h * w): times the
    features of the cells (h * w, D) it gives each id's sum of ``mass`` times upsampled feature.
    """
    found = mass.new_zeros(count * rows.cells * columns.cells)
    for row, down in ((rows.low, 1 - rows.share), (rows.high, rows.share)):
        for column, along in ((columns.low, 1 - columns.share), (columns.high, columns.share)):
            place = (ids * rows.cells + row[:, None]) * columns.cells + column
            weight = mass * down[:, None] * along
            found.index_add_(0, place.flatten(), weight.flatten())
    return found.view(count, -1)
