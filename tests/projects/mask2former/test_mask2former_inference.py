"""Instances and class maps of given queries, at the original size."""

import pytest
import torch
from torch.nn import functional as F
from weaksam_d2.projects.mask2former import inference
from weaksam_d2.projects.mask2former.inference import class_maps, find_instances, resized_masks

SIZES = {"canvas": (32, 32), "image_size": (24, 32), "size": (48, 64)}


def queries() -> tuple[torch.Tensor, torch.Tensor]:
    """Four queries, two classes: a box, its weaker copy, nothing, and an object in the padding."""
    masks = torch.full((4, 8, 8), -6.0)
    masks[0, 1:3, 2:5] = masks[1, 1:3, 2:5] = 6.0
    masks[3, 7, 0:4] = 6.0  # rows from 28 on: below the image
    logits = torch.tensor([[3.0, 0, 0], [1.0, 0, 0], [0, 5.0, 0], [0, 4.0, 0]])
    return logits, masks


def test_scores_are_class_times_mask_probability_in_falling_order() -> None:
    logits, masks = queries()
    found = find_instances(logits, masks, top=8, **SIZES)
    assert found.image_size == (48, 64) and found.pred_masks.dtype == torch.bool
    assert found.pred_masks.shape[1:] == (48, 64)
    assert len(found) == 4  # two queries with a mask, two classes each
    assert found.pred_classes.tolist() == [0, 0, 1, 1]
    probability = logits.softmax(1)
    shown = F.interpolate(masks[:1, None], size=(32, 32), mode="bilinear")[..., :24, :]
    shown = F.interpolate(shown, size=(48, 64), mode="bilinear")[0, 0]
    inside = shown > 0
    quality = shown.sigmoid()[inside].mean()
    expected = [probability[0, 0], probability[1, 0], probability[1, 1], probability[0, 1]]
    wanted = [float(p * quality) for p in expected]
    assert found.scores.tolist() == pytest.approx(wanted, rel=1e-4)
    assert found.pred_masks[0].equal(inside)
    ys, xs = inside.nonzero(as_tuple=True)
    tight = [int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1]
    assert found.pred_boxes.tensor[0].tolist() == tight


def test_only_the_best_pairs_are_found() -> None:
    found = find_instances(*queries(), top=3, **SIZES)
    assert len(found) == 1 and found.pred_classes.tolist() == [0]  # the other two have no mask


def test_nothing_is_found_where_every_mask_is_empty() -> None:
    logits, masks = queries()
    found = find_instances(logits, masks - 100, top=8, **SIZES)
    assert len(found) == 0 and found.pred_masks.shape == (0, 48, 64)
    assert found.pred_boxes.tensor.shape == (0, 4)


def test_parts_of_a_small_budget_are_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, masks = queries()
    whole = find_instances(logits, masks, top=8, **SIZES)
    monkeypatch.setattr(inference, "_BUDGET", 1)
    assert [len(part) for part in resized_masks(masks, **SIZES)] == [1] * 4
    part = find_instances(logits, masks, top=8, **SIZES)
    assert part.scores.equal(whole.scores) and part.pred_masks.equal(whole.pred_masks)


def test_class_maps_join_all_queries() -> None:
    logits, masks = torch.randn(4, 3), torch.randn(4, 8, 8)
    maps = class_maps(logits, masks, **SIZES)
    assert maps.shape == (2, 48, 64)
    larger = F.interpolate(masks[None], size=(32, 32), mode="bilinear")[0].sigmoid()
    slow = torch.zeros(2, 32, 32)
    for query in range(4):
        for label in range(2):
            slow[label] += logits[query].softmax(0)[label] * larger[query]
    slow = F.interpolate(slow[None, :, :24], size=(48, 64), mode="bilinear")[0]
    assert torch.allclose(maps, slow, atol=1e-5)
