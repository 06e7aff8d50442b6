"""Pictures of artifact entries: where the paint goes, and what is refused."""

import numpy as np
import pytest

from weaksam_d2.artifacts import CamMaps, Prompts, Proposals, make_peaks
from weaksam_d2.visualization import (
    class_color,
    draw_boxes,
    draw_cams,
    draw_detections,
    draw_prompts,
    draw_proposals,
    draw_pseudo_gt,
)

IMAGE = np.full((60, 80, 3), 200, np.uint8)
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 17, "name": "dog"}]


def changed(picture):
    """Rows and columns of the picture, in pixels of IMAGE, that are not plain."""
    scale = picture.shape[1] / 80
    rows, columns = np.nonzero((picture != 200).any(axis=2))
    return rows / scale, columns / scale


def near(picture, color, tolerance=40):
    return (np.abs(picture - 255 * np.array(color)) < tolerance).all(axis=2)


def test_a_box_is_painted_on_its_border_and_nowhere_else():
    picture = draw_boxes(IMAGE, np.array([[20, 10, 60, 50]]), colors=[(1, 0, 0)], side=320)
    assert picture.shape == (240, 320, 3) and picture.dtype == np.uint8
    rows, columns = changed(picture)
    assert rows.min() == pytest.approx(10, abs=1) and rows.max() == pytest.approx(50, abs=1)
    assert columns.min() == pytest.approx(20, abs=1) and columns.max() == pytest.approx(60, abs=1)
    assert (picture[100:140, 120:200] == 200).all()
    assert near(picture, (1, 0, 0)).sum() > 1000


def test_no_box_leaves_the_image_alone():
    assert (draw_boxes(IMAGE, np.zeros((0, 4)), colors=[], side=80) == 200).all()


@pytest.mark.parametrize("box", [[0, 0, 10, 10], [70, 50, 80, 60], [2, 1, 78, 59]])
def test_labels_stay_inside_the_image(box):
    plain = draw_boxes(IMAGE, np.array([box]), colors=[(0, 0, 1)], side=320)
    picture = draw_boxes(IMAGE, np.array([box]), colors=[(0, 0, 1)], labels=["dog 0.50"], side=320)
    plate = near(picture, (0, 0, 1)) & ~near(plain, (0, 0, 1))
    rows, columns = np.nonzero(plate)
    assert plate.sum() > 400
    assert rows.min() > 0 and rows.max() < 239 and columns.min() > 0 and columns.max() < 319


def test_labels_of_equal_boxes_do_not_cover_each_other():
    boxes = np.array([[10, 25, 70, 50]] * 2)
    colors = [(0.0, 0.0, 1.0), (1.0, 0.0, 0.0)]
    both = draw_boxes(IMAGE, boxes, colors=colors, labels=["a", "b"], side=320)
    plain = draw_boxes(IMAGE, boxes, colors=colors, side=320)
    for color in colors:
        assert near(both, color).sum() > near(plain, color).sum() + 100


def test_wrong_inputs_name_themselves():
    with pytest.raises(ValueError, match="RGB uint8.*float64"):
        draw_boxes(IMAGE / 255, np.zeros((0, 4)), colors=[])
    with pytest.raises(ValueError, match="1 boxes need as many colors"):
        draw_boxes(IMAGE, np.zeros((1, 4)), colors=[])


def test_proposals_are_colored_by_source_and_limited():
    boxes = np.float32([[5, 5, 30, 30], [40, 20, 75, 55]])
    entry = Proposals(boxes, (60, 80), sources=np.uint8([1, 0]))
    both = draw_proposals(IMAGE, entry, side=320)
    first = draw_proposals(IMAGE, entry, limit=1, side=320)
    assert near(both, class_color(1)).any() and near(both, class_color(0)).any()
    assert near(first, class_color(1)).any() and not near(first, class_color(0)).any()
    nothing = draw_proposals(IMAGE, Proposals(np.zeros((0, 4), np.float32), (60, 80)))
    assert (nothing == 200).all()


def test_detections_below_the_threshold_are_not_drawn():
    rows = [
        {"image_id": "a", "category_id": 17, "bbox": [40, 20, 30, 30], "score": 2e-6},
        {"image_id": "a", "category_id": 3, "bbox": [5, 20, 20, 30], "score": 1e-6},
    ]
    both = draw_detections(IMAGE, rows, categories=CATEGORIES, side=320)
    best = draw_detections(IMAGE, rows, categories=CATEGORIES, score_thresh=2e-6, side=320)
    assert near(both, class_color(0)).any() and near(both, class_color(1)).any()
    assert near(best, class_color(1)).any() and not near(best, class_color(0)).any()
    limited = draw_detections(IMAGE, rows[::-1], categories=CATEGORIES, limit=1, side=320)
    assert (limited == best).all()


def test_pseudo_gt_uses_the_color_of_the_class():
    row = {"image_id": "a", "category_id": 17, "bbox": [10, 20, 40, 30], "score_norm": 0.7}
    picture = draw_pseudo_gt(IMAGE, [row], categories=CATEGORIES, side=320)
    assert near(picture, class_color(1)).any()
    with pytest.raises(ValueError, match=r"category id 5 of image 'a'.*\[3, 17\]"):
        draw_pseudo_gt(IMAGE, [{**row, "category_id": 5}], categories=CATEGORIES)


def test_prompts_are_painted_where_they_are():
    prompts = Prompts(
        points=np.float32([[20, 30], [60, 30], [40, 50]]),
        offsets=np.array([0, 2, 3]),
        scores=np.ones(2, np.float32),
        classes=np.int32([1, -1]),
        sources=np.uint8([0, 0]),
        source_names=("CoarseCAMPeaks",),
    )
    picture = draw_prompts(IMAGE, prompts, side=320)
    assert near(picture[118:126, 78:86], class_color(1)).any()
    assert near(picture[118:126, 238:246], class_color(1)).any()
    assert near(picture, class_color(1))[120:124, 100:220].any()  # joined to their center
    named = draw_prompts(IMAGE, prompts, class_names=["cat", "dog"], side=320)
    assert (
        near(named, class_color(1))[:40, :80].sum() > near(picture, class_color(1))[:40, :80].sum()
    )


def test_clusters_show_the_peaks_they_are_made_of():
    peaks = make_peaks(
        [[10, 30], [30, 30], [70, 50]],
        scores=1,
        classes=[0, 1, 1],
        heads=[0, 2, 2],
        blocks=[5, 5, 6],
        prompts=[0, 0, 1],
    )
    prompts = Prompts(
        points=np.float32([[20, 30], [70, 50]]),
        offsets=np.arange(3),
        scores=np.ones(2),
        classes=np.int32([-1, -1]),
        sources=np.uint8([0, 0]),
        source_names=("CrossAttentionPeaks",),
        peaks=peaks,
    )
    picture = draw_prompts(IMAGE, prompts, side=320)
    assert near(picture[116:128, 36:48], class_color(0)).any()
    assert near(picture[116:128, 116:128], class_color(1)).any()
    assert near(picture[118:126, 50:70], class_color(0)).any()  # joined to the center
    blocks = draw_prompts(IMAGE, prompts, by="block", side=320)
    assert near(blocks[116:128, 36:48], class_color(5)).any()
    assert near(blocks[:90, :120], class_color(6)).sum() > 200  # the legend
    sources = draw_prompts(IMAGE, prompts, by="source", side=320)
    assert near(sources, class_color(0)).sum() > 1000
    with pytest.raises(ValueError, match="class, source, head, block, got 'value'"):
        draw_prompts(IMAGE, prompts, by="value")


def test_activation_maps_lie_beside_each_other():
    maps = np.zeros((2, 3, 4), np.float32)
    maps[0, :, 0] = 1  # left border
    entry = CamMaps((60, 80), np.array([0, 1]), (maps,))
    picture = draw_cams(IMAGE, entry, class_names=["cat", "dog"], side=320)
    assert picture.shape == (240, 640, 3)
    assert (picture[120, 5] != 200).any()
    assert (picture[120, 310] == 200).all()
    assert (picture[120, 320:] == 200).all()  # a constant map is no activation
    empty = CamMaps((60, 80), np.zeros(0, np.int64), (np.zeros((0, 3, 4), np.float32),))
    assert (draw_cams(IMAGE, empty, class_names=[]) == 200).all()
    with pytest.raises(ValueError, match="no fine maps"):
        draw_cams(IMAGE, entry, class_names=["cat", "dog"], kind="fine")
    with pytest.raises(ValueError, match="got 'cross'"):
        draw_cams(IMAGE, entry, class_names=["cat", "dog"], kind="cross")


def test_class_colors_are_fixed_and_distinct():
    colors = [class_color(index) for index in range(80)]
    assert len(set(colors)) == 80
    assert colors == [class_color(index) for index in range(80)]
