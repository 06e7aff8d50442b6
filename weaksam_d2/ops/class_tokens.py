"""Functions on a vision transformer with class tokens: attention read-out, fusion, positions.

Tokens are C class tokens, then the patches of a grid, row by row. ``query`` and ``key`` are
(N, heads, T, d), T = C + patches, the query scaled, so that the attention map of a head is
``softmax(query @ key^T)`` with rows that sum to one. No function holds more than a few rows of
the T x T maps at a time.
"""

import math
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "class_attention",
    "fuse_maps",
    "interleaved_heads",
    "mean_patch_attention",
    "pool_attention",
    "propagate",
    "rank_weighted_mean",
    "resize_positions",
    "split_query_key",
]

# Attention values computed at once: 64 MiB in float32.
_MAX_VALUES = 2**24
# Published weights were trained with this much added to the sides of the grid, which keeps the
# factor of the resize from falling below a whole cell.
_GRID_OFFSET = 0.1


def split_query_key(qkv: Tensor, heads: int, scale: float) -> tuple[Tensor, Tensor]:
    """Take scaled query and key, float32 (N, heads, T, d), from a block's projection.

    qkv: (N, T, 3 * heads * d), in the order query, key, value. scale: of the products.
    """
    n, t, width = qkv.shape
    query, key, _ = qkv.reshape(n, t, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    return query.float().mul(scale), key.float().contiguous()


def _attention_rows(query: Tensor, key: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Yield (rows, their attention (N, heads, r, T)), a few rows at a time."""
    transposed = key.transpose(-2, -1)
    row_values = max(1, query.shape[0] * query.shape[1] * key.shape[2])
    step = max(1, _MAX_VALUES // row_values)
    for start in range(0, query.shape[2], step):
        rows = slice(start, min(start + step, query.shape[2]))
        yield rows, (query[:, :, rows] @ transposed).softmax(dim=-1)


def class_attention(query: Tensor, key: Tensor, classes: Tensor, num_classes: int) -> Tensor:
    """Attention of class tokens to the patches, (N, heads, m, patches).

    classes: int64 (m,), of the C = num_classes tokens. WeakSAM, Sec. 3.1 (cross-attention map).
    """
    rows = (query[:, :, classes] @ key.transpose(-2, -1)).softmax(dim=-1)
    return rows[..., num_classes:]


def mean_patch_attention(query: Tensor, key: Tensor, num_classes: int) -> Tensor:
    """Attention that each patch gets from the patches on average, (N, heads, patches)."""
    total = query.new_zeros(*query.shape[:2], key.shape[2] - num_classes)
    for _, rows in _attention_rows(query[:, :, num_classes:], key):
        total += rows[..., num_classes:].sum(dim=2)
    return total / (key.shape[2] - num_classes)


def pool_attention(query: Tensor, key: Tensor, pool: Literal["max", "avg"]) -> Tensor:
    """Maximum or mean over all entries of each attention map, (N, heads).

    NOTE: the mean is 1 / T whatever the image shows, because rows sum to one.
    """
    if pool == "avg":
        return query.new_full(query.shape[:2], 1 / key.shape[2])
    return torch.stack([rows.amax(dim=(-2, -1)) for _, rows in _attention_rows(query, key)]).amax(0)


def propagate(query: Tensor, key: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Spread values over the patches by the weighted sum of the heads' patch attention.

    values: (N, patches, m). weights: (N, heads). Returns (N, patches, m): the sum over the heads
    of weight times A[C:, C:] @ values. The class tokens are the first T - patches.
    """
    num_classes = key.shape[2] - values.shape[1]
    spread = torch.empty_like(values)
    for rows, attention in _attention_rows(query[:, :, num_classes:], key):
        heads = attention[..., num_classes:] @ values[:, None]
        spread[:, rows] = torch.einsum("bk,bkrm->brm", weights, heads)
    return spread


def interleaved_heads(features: Tensor, heads: int) -> Tensor:
    """Split channels into interleaved groups: (..., D) to (..., heads, D / heads).

    Group h has the channels h, h + heads, h + 2 * heads, ... (not a head's own, which lie
    together): this is how WeakTr's published fusion was trained.
    """
    return features.reshape(*features.shape[:-1], -1, heads).transpose(-2, -1)


def fuse_maps(gates: Tensor, maps: Tensor) -> Tensor:
    """Mean of gated maps: gates (N, K), maps (N, K, ...) to (N, ...). WeakTr, Sec. 3.2."""
    gated = gates.reshape(*gates.shape, *[1] * (maps.ndim - 2)) * maps
    return gated.mean(dim=1)


def rank_weighted_mean(scores: Tensor, decay: float) -> Tensor:
    """Mean over the last dimension, the k-th largest score weighted by decay**k.

    scores: (..., n). Returns (...). Global weighted ranking pooling of MCTformer+.
    """
    ranked = scores.sort(dim=-1, descending=True).values
    ranks = torch.arange(scores.shape[-1], device=scores.device, dtype=ranked.dtype)
    weights = decay**ranks
    return (ranked * weights).sum(dim=-1) / weights.sum()


def resize_positions(
    positions: Tensor,
    grid: tuple[int, int],
    *,
    interp: Literal["size", "scale"] = "size",
    square_image: bool = True,
) -> Tensor:
    """Resize the position embedding of a square grid of patches to another grid, bicubic.

    positions: (1, g * g, D). grid: (h, w). interp: "size" asks for the grid; "scale" gives the
    factor (h + 0.1) / g, as published weights were trained with, which samples at slightly other
    places. square_image: the image has equal sides; then a grid of g x g is left as it is.
    Returns (1, h * w, D). Raises ValueError if the grid of the embedding is not square.
    """
    side = math.isqrt(positions.shape[1])
    if side * side != positions.shape[1]:
        raise ValueError(f"{positions.shape[1]} patch positions are not a square grid")
    if grid == (side, side) and (square_image or interp == "size"):
        return positions
    plane = positions.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    if interp == "size":
        resized = F.interpolate(plane, size=grid, mode="bicubic")
    else:
        factors = tuple((cells + _GRID_OFFSET) / side for cells in grid)
        resized = F.interpolate(plane, scale_factor=factors, mode="bicubic")
    return resized.permute(0, 2, 3, 1).flatten(1, 2)
