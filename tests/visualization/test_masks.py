"""The tint of masks: which pixels it touches, and that entries with masks get it."""

import numpy as np
import pytest

from weaksam_d2.artifacts import Proposals
from weaksam_d2.ops import encode_rle
from weaksam_d2.visualization import draw_detections, draw_mask_set, draw_pseudo_gt
from weaksam_d2.visualization.masks import tint_masks

IMAGE = np.full((60, 80, 3), 200, np.uint8)
RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def code(*window: int) -> dict:
    mask = np.zeros((1, 60, 80), bool)
    x1, y1, x2, y2 = window
    mask[0, y1:y2, x1:x2] = True
    return {"size": [60, 80], "counts": encode_rle(mask)[0].decode()}


def test_a_mask_is_tinted_inside_painted_at_its_border_and_nothing_else_changes() -> None:
    picture = tint_masks(IMAGE, [code(10, 20, 30, 40)], [RED])
    assert picture.dtype == np.uint8 and picture[30, 20].tolist() == [228, 100, 100]
    assert picture[20, 10].tolist() == [255, 0, 0] and picture[39, 29].tolist() == [255, 0, 0]
    assert ((picture != 200).any(axis=2)).sum() == 400
    assert (IMAGE == 200).all()


def test_later_masks_lie_on_top_and_none_is_skipped() -> None:
    both = tint_masks(IMAGE, [code(0, 0, 40, 40), None, code(10, 10, 30, 30)], [RED, RED, BLUE])
    assert both[20, 20].tolist() == [100, 100, 228] and both[5, 5].tolist() == [228, 100, 100]
    assert np.array_equal(tint_masks(IMAGE, [], []), IMAGE)
    with pytest.raises(ValueError, match="60 x 80"):
        tint_masks(IMAGE[:50], [code(0, 0, 5, 5)], [RED])


@pytest.mark.parametrize("draw", [draw_pseudo_gt, draw_detections])
def test_entries_with_masks_are_drawn_with_them(draw) -> None:
    row = {"category_id": 1, "bbox": [20.0, 10.0, 40.0, 40.0], "score": 0.5}
    categories = [{"id": 1, "name": "cat"}]
    plain = draw(IMAGE, [row], categories=categories, side=320)
    tinted = draw(
        IMAGE, [{**row, "segmentation": code(30, 30, 50, 48)}], categories=categories, side=320
    )
    inside = (slice(130, 180), slice(130, 190))
    assert (plain[inside] == 200).all() and not (tinted[inside] == 200).all(axis=2).any()


def test_a_mask_set_shows_the_smaller_of_two_masks_on_top_in_another_color() -> None:
    big, small = code(0, 0, 60, 50), code(10, 10, 30, 30)
    for order in ((big, small), (small, big)):
        masks = tuple(row["counts"].encode() for row in order)
        boxes = np.array([[0, 0, 60, 50], [10, 10, 30, 30]], np.float32)
        picture = draw_mask_set(IMAGE, Proposals(boxes, (60, 80), masks=masks))
        assert picture[20, 20].tolist() != picture[45, 55].tolist() != [200, 200, 200]
        assert picture[55, 70].tolist() == [200, 200, 200]
    with pytest.raises(ValueError, match="SAVE_MASKS"):
        draw_mask_set(IMAGE, Proposals(boxes, (60, 80)))
