"""Tests of weaksam_d2.ops.groups."""

import numpy as np
import pytest
import torch

from weaksam_d2.ops.groups import (
    group_starts,
    keep_in_groups,
    padded_blocks,
    rank_in_groups,
    sort_in_groups,
)

GROUPS = np.array([2, 2, 2, 5, 7, 7], dtype=np.int64)


def test_rows_are_sorted_by_group_then_falling_value_then_row() -> None:
    groups = np.array([1, 0, 1, 0, 1], dtype=np.int64)
    values = np.array([0.5, 0.1, 0.9, 0.1, 0.5])
    assert sort_in_groups(groups, values).tolist() == [1, 3, 2, 0, 4]


def test_starts_and_ranks() -> None:
    assert group_starts(GROUPS).tolist() == [0, 3, 4]
    assert rank_in_groups(GROUPS).tolist() == [0, 1, 2, 0, 0, 1]
    nothing = np.zeros(0, dtype=np.int64)
    assert len(group_starts(nothing)) == len(rank_in_groups(nothing)) == 0
    assert list(padded_blocks(nothing)) == []


@pytest.mark.parametrize("cells", [1, 4, 1000])
def test_blocks_hold_every_row_once_and_pad_behind(cells: int) -> None:
    groups = np.sort(np.random.default_rng(0).integers(0, 12, 50))
    seen = []
    for rows, real in padded_blocks(groups, cells):
        assert rows.shape[0] == 1 or rows.shape[0] * rows.shape[1] ** 2 <= cells
        assert (np.sort(~real, axis=1) == ~real).all()
        assert (groups[rows] == groups[rows[:, :1]]).all()  # a block's row is one group
        assert (rows[~real] == np.broadcast_to(rows[:, :1], rows.shape)[~real]).all()
        seen += rows[real].tolist()
    assert sorted(seen) == list(range(50))


def test_a_removed_box_removes_nothing_and_a_protected_one_stays() -> None:
    # In each group a box removes the next one.
    boxes = np.arange(len(GROUPS), dtype=np.float64)[:, None].repeat(4, axis=1)

    def next_one(block: torch.Tensor) -> torch.Tensor:
        place = block[..., 0]
        return place[:, :, None] - place[:, None, :] == 1

    kept = keep_in_groups(boxes, GROUPS, next_one)
    assert kept.tolist() == [True, False, True, True, True, False]
    second = np.arange(len(GROUPS)) == 1
    kept = keep_in_groups(boxes, GROUPS, next_one, protected=second)
    assert kept.tolist() == [True, True, False, True, True, False]


def test_a_long_chain_is_settled() -> None:
    boxes = np.arange(90, dtype=np.float64)[:, None].repeat(4, axis=1)
    kept = keep_in_groups(
        boxes,
        np.zeros(90, dtype=np.int64),
        lambda block: block[..., 0][:, :, None] - block[..., 0][:, None, :] == 1,
    )
    assert kept.tolist() == [True, False] * 45
