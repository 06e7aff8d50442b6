"""Functions on activation maps: normalization, fusion of scales, max-pooling."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "divide_by_maximum",
    "fuse_scales",
    "iter_fused_maps",
    "max_pool_same",
    "normalize_map",
]

logger = logging.getLogger(__name__)


def normalize_map(m: Tensor, eps: float = 1e-8) -> Tensor:
    """Scale each map to [0, 1] by its own minimum and maximum.

    m: (..., H, W). eps: added to the range. Returns float32 (float64 stays) of the same shape. A
    constant map becomes zero, and so does a map with a value that is not finite (logged). Raises
    ValueError for a map without pixels. WeakSAM, Sec. 3.1.
    """
    if m.ndim < 2 or m.shape[-1] == 0 or m.shape[-2] == 0:
        raise ValueError(f"maps must have shape (..., H, W) with H, W > 0, got {tuple(m.shape)}")
    m = m if m.dtype == torch.float64 else m.float()
    finite = torch.isfinite(m).all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    broken = int((~finite).sum())
    if broken:
        logger.warning("%d maps have values that are not finite and count as constant", broken)
    m = torch.where(finite, m, torch.zeros_like(m))
    low = m.amin(dim=(-2, -1), keepdim=True)
    high = m.amax(dim=(-2, -1), keepdim=True)
    return (m - low) / (high - low + eps)


def divide_by_maximum(m: Tensor, eps: float = 1e-5) -> Tensor:
    """Scale the positive part of each map to [0, 1) by its own maximum.

    m: (..., H, W). eps: added to the maximum. Returns float32 (float64 stays) of the same shape. A
    map without a positive value becomes zero, and so does one with a value that is not finite.
    wsss.md, Sec. 6.5 (S2C).
    """
    m = m if m.dtype == torch.float64 else m.float()
    finite = torch.isfinite(m).all(dim=-1, keepdim=True).all(dim=-2, keepdim=True)
    if not bool(finite.all()):
        logger.warning(
            "%d maps have values that are not finite and count as empty", (~finite).sum()
        )
    m = torch.where(finite, m.clamp(min=0), torch.zeros_like(m))
    return m / (m.amax(dim=(-2, -1), keepdim=True) + eps)


def iter_fused_maps(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    eps: float | None = None,
    chunk: int = 64,
    normalize: str = "minmax",
) -> Iterator[tuple[int, Tensor]]:
    """Yield the fused maps of ``fuse_scales`` a few at a time, for many maps in bounded memory.

    Arguments as for ``fuse_scales``. Yields (index of the first map, float32 (k, H, W)), k <=
    chunk, in order.
    """
    if not maps:
        raise ValueError("maps of at least one scale are needed, got none")
    counts = [m.shape[0] if m.ndim == 3 else -1 for m in maps]
    if min(counts) < 0 or len(set(counts)) > 1:
        shapes = [tuple(m.shape) for m in maps]
        raise ValueError(f"the maps of each scale must be (n, h, w) of one n, got {shapes}")
    if chunk < 1:
        raise ValueError(f"chunk must be at least 1, got {chunk}")
    if normalize not in _NORMALIZE:
        raise ValueError(f"normalize is {normalize!r}, expected one of {sorted(_NORMALIZE)}")
    options = {} if eps is None else {"eps": eps}
    for start in range(0, counts[0], chunk):
        total: Tensor | None = None
        for scale in maps:
            part = scale[start : start + chunk].float()[None]
            full = F.interpolate(part, size=size, mode="bilinear", align_corners=False)[0]
            total = full if total is None else total.add_(full)
        assert total is not None
        yield start, _NORMALIZE[normalize](total, **options)


# What a store of activation maps may ask for, by the name that it has there.
_NORMALIZE: dict[str, Callable[..., Tensor]] = {
    "minmax": normalize_map,
    "max": divide_by_maximum,
    "none": lambda m, eps=0.0: m.clamp(0, 1),  # interpolation rounds, and a label wants [0, 1]
}


def fuse_scales(
    maps: Sequence[Tensor],
    size: tuple[int, int],
    *,
    eps: float | None = None,
    chunk: int = 64,
    normalize: str = "minmax",
) -> Tensor:
    """Upsample the maps of several scales to the image, add them, normalize each to [0, 1].

    maps: one (n, h, w) tensor for each scale, in which the mirrored view is already flipped back
    and added. size: (height, width) of the image. normalize: "minmax" (``normalize_map``), "max"
    (``divide_by_maximum``) or "none" (the sum is in [0, 1] already and is cut to it); eps: see
    there; None: theirs. chunk: maps that are upsampled at once.
    Returns float32 (n, height, width). Raises ValueError without scales, if their n differ, or for
    another ``normalize``. WeakSAM, Sec. 3.1; wsss.md, Sec. 1.1.
    """
    fused = iter_fused_maps(maps, size, eps=eps, chunk=chunk, normalize=normalize)
    parts = [part for _, part in fused]
    return torch.cat(parts) if parts else maps[0].new_zeros((0, *size), dtype=torch.float32)


def max_pool_same(m: NDArray[np.floating[Any]], window: int) -> NDArray[np.floating[Any]]:
    """Return the maximum of the square window around each pixel.

    m: float32 or float64 (H, W). window: odd side in pixels; outside the map counts as minus
    infinity. Returns the same shape and dtype. The cost of a pixel does not grow with the window.
    Raises ValueError for an even window or another dtype.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"window must be a positive odd number of pixels, got {window}")
    if m.dtype not in (np.float32, np.float64):
        raise ValueError(f"a map must be float32 or float64, got {m.dtype}: convert it")
    # A window beyond 2 * side - 1 always covers the whole side.
    sides = tuple(min(window, 2 * side - 1) for side in m.shape)
    pooled: NDArray[np.floating[Any]] = maximum_filter(m, size=sides, mode="constant", cval=-np.inf)
    return pooled
