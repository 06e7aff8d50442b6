"""Boxes in groups (a class of an image): decisions for all groups at once, none crosses a group.

Rows are sorted by group everywhere in this module. Groups of similar size are stacked, so that
the pairs of a block are one small tensor, whatever the number of groups.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["group_starts", "keep_in_groups", "padded_blocks", "rank_in_groups", "sort_in_groups"]

_CELLS = 1 << 17  # pairs of a block: 1 MB in float64, which stays in a core's cache

Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


def sort_in_groups(groups: Ints, values: NDArray[np.float64]) -> Ints:
    """Return the rows by rising group, then by falling value; equal values by row.

    groups, values: (N,), finite. Returns int64 (N,).
    """
    return np.lexsort((-values, groups)).astype(np.int64, copy=False)


def group_starts(groups: Ints) -> Ints:
    """Return the first row of each group.

    groups: (N,), rising. Returns int64 (G,).
    """
    first = np.ones(len(groups), dtype=np.bool_)
    first[1:] = groups[1:] != groups[:-1]
    return np.flatnonzero(first)


def rank_in_groups(groups: Ints) -> Ints:
    """Return how many rows of the same group come before each row.

    groups: (N,), rising. Returns int64 (N,).
    """
    starts = group_starts(groups)
    sizes = np.diff(starts, append=len(groups))
    return np.arange(len(groups)) - np.repeat(starts, sizes)


def padded_blocks(groups: Ints, cells: int = _CELLS) -> Iterator[tuple[Ints, Flags]]:
    """Give all groups, stacked in blocks of at most ``cells`` pairs (a bigger group is alone).

    groups: (N,), rising. Yields (rows int64 (B, n), real bool (B, n)): the rows of B groups in
    order; where ``real`` is False the row is the group's first one again, behind all real ones.
    """
    starts = group_starts(groups)
    sizes = np.diff(starts, append=len(groups))
    by_size = np.argsort(-sizes, kind="stable")
    done = 0
    while done < len(by_size):
        width = int(sizes[by_size[done]])
        block = by_size[done : done + max(1, cells // width**2)]
        place = np.arange(width)
        real = place < sizes[block, None]
        yield starts[block, None] + np.where(real, place, 0), real
        done += len(block)


def keep_in_groups(
    boxes: NDArray[np.float64],
    groups: Ints,
    removes: Callable[[Tensor], Tensor],
    *,
    protected: Flags | None = None,
) -> Flags:
    """Go through each group in its order and keep a box that no kept one before it removes.

    boxes: (N, 4). groups: (N,), rising. removes: from boxes (B, n, 4) to bool (B, n, n), whose
    [b, j, k] says that box k would remove box j. protected: bool (N,), boxes that stay in any
    case. Returns bool (N,).
    """
    kept: Flags = np.ones(len(groups), dtype=np.bool_)
    for rows, real in padded_blocks(groups):
        if rows.shape[1] == 1:
            continue  # nothing comes before
        pairs: Flags = removes(torch.from_numpy(boxes[rows])).numpy()
        pairs &= np.tri(rows.shape[1], k=-1, dtype=np.bool_)
        if protected is not None:
            pairs &= ~protected[rows][:, :, None]
        kept[rows[real]] = _settle(pairs)[real]
    return kept


def _settle(pairs: Flags) -> Flags:
    # Whether a box stays depends on earlier ones only, so each pass settles at least one more
    # place of every group; it takes as many as a chain of removals is long.
    kept: Flags = np.ones(pairs.shape[:2], dtype=np.bool_)
    while True:
        gone: Flags = np.asarray((pairs & kept[:, None, :]).any(axis=2))
        now: Flags = np.logical_not(gone)
        if (now == kept).all():
            return kept
        kept = now
