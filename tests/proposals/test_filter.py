"""Thresholds, NMS, merging and cleaning of boxes, on numbers that can be checked by hand."""

import pytest
import torch
from torch import Tensor

from weaksam_d2.proposals import (
    Candidates,
    FilterSettings,
    clean_boxes,
    filter_masks,
    merge_sources,
)

NAN = float("nan")


def _masks() -> tuple[Tensor, Tensor, Tensor]:
    """Two prompts of three masks; prompt p, mask m has the box [10 p, m, 10 p + 5, m + 5]."""
    boxes = torch.tensor([[[10.0 * p, m, 10.0 * p + 5, m + 5] for m in range(3)] for p in range(2)])
    quality = torch.tensor([[0.9, 0.3, 0.31], [-0.1, 0.5, 0.8]])
    stability = torch.tensor([[1.0, 0.9, 0.29], [0.5, NAN, 0.3]])
    return boxes, quality, stability


def _rows(candidates: Candidates) -> list[tuple[int, int]]:
    """(prompt, mask) of each kept box."""
    return [(int(box[0]) // 10, int(box[1])) for box in candidates.boxes]


def test_masks_come_prompt_by_prompt_in_the_order_of_the_indices() -> None:
    assert _rows(filter_masks(*_masks(), mask_indices=(1, 2))) == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert _rows(filter_masks(*_masks(), mask_indices=(2, 0))) == [(0, 2), (0, 0), (1, 2), (1, 0)]


def test_quality_is_strict_stability_is_not_and_zero_over_zero_fails() -> None:
    kept = filter_masks(*_masks(), mask_indices=(0, 1, 2), quality_thresh=0.3, stability_thresh=0.3)
    # (0, 1): quality .3 is not above .3; (0, 2): stability .29; (1, 0): quality; (1, 1): 0/0;
    # (1, 2): stability .3 is enough.
    assert _rows(kept) == [(0, 0), (1, 2)]
    assert kept.quality.tolist() == pytest.approx([0.9, 0.8])
    assert kept.stability.tolist() == pytest.approx([1.0, 0.3])


def test_empty_masks_are_dropped_and_thresholds_of_zero_are_off() -> None:
    boxes, quality, stability = _masks()
    boxes[0, 1] = NAN
    assert _rows(filter_masks(boxes, quality, stability, mask_indices=(0, 1))) == [
        (0, 0),
        (1, 0),  # predicted IoU below 0
        (1, 1),  # stability 0/0
    ]


def test_no_prompts_give_no_boxes() -> None:
    empty = torch.zeros(0, 3, 4), torch.zeros(0, 3), torch.zeros(0, 3)
    assert FilterSettings(nms=0.3, by_quality=True)(*empty).boxes.shape == (0, 4)


def test_a_mask_that_prompts_do_not_have_is_named() -> None:
    with pytest.raises(ValueError, match=r"MASK_INDICES \(1, 3\).* 3 masks; allowed: 0 to 2"):
        filter_masks(*_masks(), mask_indices=(1, 3))


def _column(boxes: list[list[float]], quality: list[float]) -> tuple[Tensor, Tensor, Tensor]:
    """One mask for each prompt."""
    stability = torch.ones(len(boxes), 1)
    return torch.tensor(boxes)[:, None], torch.tensor(quality)[:, None], stability


def test_cross_nms_keeps_the_first_in_prompt_order() -> None:
    # weaksam.md, Sec. 4.3, example (c): the better predicted v goes, z stays.
    boxes = [[0.0, 0, 100, 100], [0.0, 0, 100, 95], [0.0, 0, 100, 89]]
    cross = FilterSettings(mask_indices=(0,), nms=0.9)
    kept = cross(*_column(boxes, [0.1, 0.9, 0.5]))
    assert kept.boxes[:, 3].tolist() == [100, 89]


def test_grid_nms_keeps_the_best_by_quality() -> None:
    boxes = [[0.0, 0, 100, 100], [0.0, 0, 100, 95], [50.0, 50, 60, 60]]
    grid = FilterSettings(mask_indices=(0,), nms=0.3, by_quality=True)
    kept = grid(*_column(boxes, [0.1, 0.9, 0.5]))
    assert kept.boxes[:, 3].tolist() == [95, 60]
    assert kept.quality.tolist() == pytest.approx([0.9, 0.5])


def test_nms_of_one_is_off() -> None:
    boxes = [[0.0, 0, 10, 10], [0.0, 0, 10, 10]]
    assert len(FilterSettings(mask_indices=(0,), nms=1.0)(*_column(boxes, [1, 1])).boxes) == 2


def test_boxes_are_clipped_and_degenerate_or_repeated_ones_dropped() -> None:
    boxes = torch.tensor(
        [
            [-5.0, 2, 30, 8],
            [0.0, 2, 20, 8],  # the first one again, once that is clipped
            [20.0, 0, 25, 5],  # outside
            [3.0, 3, 3, 9],  # no width
            [NAN, 0, 1, 1],
            [1.0, 1, 4, 4],
            [1.02, 1, 4, 4],  # equal at 1/16 pixel
            [1.04, 1, 4, 4],  # not equal
        ]
    )
    cleaned, index = clean_boxes(boxes, (10, 20), step=1 / 16, max_boxes=100)
    assert index.tolist() == [0, 5, 7]
    assert cleaned[0].tolist() == [0, 2, 20, 8]
    assert clean_boxes(boxes, (10, 20), step=0, max_boxes=3)[1].tolist() == [0, 1, 5]


def _part(*left: float) -> Candidates:
    boxes = torch.tensor([[x, 0.0, x + 5, 5.0] for x in left]).reshape(-1, 4)
    return Candidates(boxes, boxes[:, 0].clone(), boxes[:, 0] + 0.5)


def test_sources_are_joined_in_order_the_first_owner_of_a_box_wins() -> None:
    parts = [(0, _part(1, 2)), (1, _part(2, 3)), (2, _part()), (3, _part(3, 4))]
    kept, sources = merge_sources(parts, (20, 20))
    assert kept.boxes[:, 0].tolist() == [1, 2, 3, 4]
    assert sources.tolist() == [0, 0, 1, 3]
    assert kept.quality.tolist() == [1, 2, 3, 4] and kept.stability[3] == 4.5


def test_the_cap_takes_from_the_end_of_the_last_source() -> None:
    parts = [(0, _part(1, 2)), (1, _part(3, 4)), (3, _part(5, 6))]
    for cap, expected in ((5, [1, 2, 3, 4, 5]), (3, [1, 2, 3]), (1, [1])):
        kept, sources = merge_sources(parts, (20, 20), max_boxes=cap)
        assert kept.boxes[:, 0].tolist() == expected and len(sources) == cap


def test_repeated_boxes_do_not_count_for_the_cap() -> None:
    kept, _ = merge_sources([(0, _part(1, 1)), (1, _part(2))], (20, 20), max_boxes=2)
    assert kept.boxes[:, 0].tolist() == [1, 2]


def test_nms_across_sources_is_unscored_and_comes_before_the_cap() -> None:
    # weaksam.md, Sec. 4.3, example (c), its boxes from three sources.
    def source(*boxes: list[float]) -> Candidates:
        return Candidates(torch.tensor(boxes), torch.tensor([float(len(boxes))]), torch.ones(1))

    parts = [
        (0, source([0.0, 0, 100, 100])),
        (1, source([0.0, 0, 100, 95])),
        (3, source([0.0, 0, 100, 89])),
    ]
    kept, sources = merge_sources(parts, (100, 100), nms=0.9, max_boxes=2)
    assert kept.boxes[:, 3].tolist() == [100, 89] and sources.tolist() == [0, 3]
    kept, sources = merge_sources(parts, (100, 100), nms=1.0, max_boxes=0)
    assert sources.tolist() == [0, 1, 3]  # 1 is off, and so is a cap of 0


def test_masks_of_candidates_follow_their_boxes() -> None:
    boxes, quality, stability = _masks()
    boxes[0, 1] = NAN
    kept = filter_masks(boxes, quality, stability, mask_indices=(2, 1), stability_thresh=0.29)
    assert kept.masks is not None and kept.masks.tolist() == [2, 5]
    first = _part(7, 3)._replace(masks=torch.tensor([4, 9]))
    last = _part(3, 2)._replace(masks=torch.tensor([1, 8]))
    joined, _ = merge_sources([(0, first), (1, last)], (20, 20))
    assert joined.masks is not None and joined.masks.tolist() == [4, 9, 8]
    assert merge_sources([(0, first), (1, _part(2))], (20, 20))[0].masks is None


def test_nothing_to_join_gives_nothing() -> None:
    kept, sources = merge_sources([], (20, 20))
    assert kept.boxes.shape == (0, 4) and len(sources) == 0
