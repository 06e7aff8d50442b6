"""Tests of weaksam_d2.ops.pseudo_gt."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weaksam_d2.ops import (
    Selection,
    select_adaptive,
    select_all,
    select_sos,
    select_threshold,
    select_top1,
    select_topk,
    select_w2n,
    usable_detections,
)

FAR = [300.0, 300, 310, 310]


def chosen(boxes: list, scores: list, **options: object) -> list[int]:
    classes = np.zeros(len(scores), dtype=np.int64)
    return select_adaptive(boxes, scores, classes, [0], **options).index.tolist()  # type: ignore


def test_a_part_of_a_bigger_box_goes() -> None:
    boxes = [[0, 0, 100, 100], [10, 10, 50, 50], [120, 0, 200, 80], FAR]
    scores = [0.9, 0.8, 0.5, 0.1]
    selection = select_adaptive(boxes, scores, [0] * 4, [0])
    assert selection.index.tolist() == [0, 2]
    np.testing.assert_allclose(selection.score_norm, [1, 0.5])
    assert selection.score_norm.dtype == np.float32
    release = select_adaptive(boxes, scores, [0] * 4, [0], norm="release")
    assert release.index.tolist() == [0, 2]
    np.testing.assert_allclose(release.score_norm, [1.125, 0.625], rtol=1e-6)


def test_one_of_two_duplicates_stays() -> None:
    boxes = [[0, 0, 100, 100], [2, 2, 102, 102], [300, 0, 340, 40]]
    assert chosen(boxes, [0.9, 0.8, 0.1], contain="literal") == []
    assert chosen(boxes, [0.9, 0.8, 0.1]) == [0]
    assert chosen(boxes, [0.8, 0.9, 0.1]) == [1]


def test_single_equal_and_no_detections() -> None:
    single = select_adaptive([[0, 0, 5, 5]], [0.02], [0], [0])
    assert single.index.tolist() == [0]
    assert single.score_norm.tolist() == [1]
    assert chosen([[0, 0, 5, 5]], [0.02], norm="release") == [0]
    apart = [[0, 0, 5, 5], [10, 0, 15, 5], [20, 0, 25, 5]]
    assert chosen(apart, [0.4, 0.4, 0.4]) == [0, 1, 2]
    empty = select_adaptive(np.zeros((0, 4)), [], [], [0])
    assert empty.index.shape == (0,)
    assert empty.index.dtype == np.int64
    assert empty.score_norm.dtype == np.float32


def test_a_part_that_scores_higher() -> None:
    boxes = [[0, 0, 40, 40], [0, 0, 100, 100], FAR]
    assert chosen(boxes, [0.9, 0.6, 0.1]) == [1]
    assert chosen(boxes, [0.9, 0.6, 0.1], contain="score") == [0, 1]


def test_a_removed_box_cannot_remove() -> None:
    boxes = [[0, 10, 100, 110], [0, 4, 50, 64], [0, 0, 20, 50], FAR]
    scores = [0.9, 0.8, 0.7, 0.1]
    assert chosen(boxes, scores, contain="literal") == [0]
    assert chosen(boxes, scores, contain="area") == [0, 2]


def test_only_tagged_classes_are_chosen() -> None:
    boxes = [[0, 0, 10, 10], [50, 50, 60, 60]]
    selection = select_adaptive(boxes, [0.9, 0.8], [11, 7], [11], score_thresh=0.0)
    assert selection.index.tolist() == [0]
    assert select_top1(boxes, [0.9, 0.8], [11, 7], [11]).index.tolist() == [0]
    assert len(select_adaptive(boxes, [0.9, 0.8], [11, 7], []).index) == 0


def test_classes_do_not_interact_and_the_order_is_class_then_score() -> None:
    boxes = [[0, 0, 100, 100], [10, 10, 50, 50], FAR, [120, 0, 160, 40]]
    selection = select_adaptive(boxes, [0.2, 0.9, 0.1, 0.8], [3, 1, 3, 1], [3, 1], score_thresh=0.0)
    assert selection.index.tolist() == [1, 3, 0, 2]
    np.testing.assert_allclose(selection.score_norm, [1, 0, 1, 0])


def test_degenerate_detections_are_left_out_before_normalization() -> None:
    boxes = [[0, 0, 10, 10], [5, 5, 5, 9], [0, 0, np.nan, 4], [20, 20, 30, 30], [40, 0, 50, 9]]
    scores = [0.5, 0.9, 0.9, 0.5, np.nan]
    selection = select_adaptive(boxes, scores, [0] * 5, [0])
    assert selection.index.tolist() == [0, 3]
    assert selection.score_norm.tolist() == [1, 1]
    assert select_top1(boxes, scores, [0] * 5, [0]).index.tolist() == [0]


def test_a_full_threshold_equals_top1_and_a_cap_keeps_the_best() -> None:
    rng = np.random.default_rng(0)
    low = rng.random((40, 2)) * 50
    boxes = np.concatenate([low, low + 1 + rng.random((40, 2)) * 20], axis=1)
    scores, classes = rng.random(40), rng.integers(0, 4, 40)
    top = select_top1(boxes, scores, classes, [0, 1, 3])
    strict = select_adaptive(boxes, scores, classes, [0, 1, 3], score_thresh=1.0)
    assert strict.index.tolist() == top.index.tolist()
    capped = select_adaptive(boxes, scores, classes, [0, 1, 3], max_per_class=2)
    free = select_adaptive(boxes, scores, classes, [0, 1, 3])
    for c in (0, 1, 3):
        rows = free.index[classes[free.index] == c]
        assert capped.index[classes[capped.index] == c].tolist() == rows[:2].tolist()
        assert (np.diff(scores[rows]) <= 0).all()
        assert len(rows) > 0  # no class is lost


def test_top1_takes_the_first_best_above_zero() -> None:
    boxes = [[0, 0, 5, 5], [9, 9, 12, 12], [20, 20, 25, 25]]
    selection = select_top1(boxes, [0.5, 0.5, 0.0], [0, 0, 1], [0, 1])
    assert selection.index.tolist() == [0]
    assert selection.score_norm.tolist() == [1]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="iou"):
        chosen([FAR], [0.5], contain="iou")
    with pytest.raises(ValueError, match="softmax"):
        chosen([FAR], [0.5], norm="softmax")
    with pytest.raises(ValueError, match=r"\(N, 4\)"):
        select_top1([FAR], [0.5, 0.4], [0, 0], [0])


def test_the_best_k_above_zero() -> None:
    boxes = [[0, 0, 5, 5], [9, 9, 12, 12], [20, 20, 25, 25], FAR]
    found = select_topk(boxes, [0.2, 0.6, 0.6, 0.0], [0] * 4, [0], k=3)
    assert found.index.tolist() == [1, 2, 0]
    np.testing.assert_allclose(found.score_norm, [1, 1, 1 / 3], rtol=1e-6)
    assert select_topk(boxes, [0.2, 0.6, 0.6, 0.0], [0] * 4, [0], k=9).index.tolist() == [1, 2, 0]


def test_a_fixed_threshold_is_reached_by_equality_and_may_lose_a_class() -> None:
    boxes = [[0, 0, 5, 5], [9, 9, 12, 12], FAR]
    found = select_threshold(boxes, [0.5, 0.7, 0.4], [0, 0, 1], [0, 1], threshold=0.5)
    assert found.index.tolist() == [1, 0]
    every = select_all(boxes, [0.5, 0.7, -0.4], [0, 0, 1], [0, 1])
    assert every.index.tolist() == [1, 0, 2]
    assert every.score_norm.tolist() == [1, 0, 1]
    assert select_all(
        boxes, [0.5, 0.7, 0.4], [0, 0, 1], [0, 1], max_per_class=1
    ).index.tolist() == [
        1,
        2,
    ]


def test_sos_keeps_the_best_box_inside_a_bigger_one() -> None:
    part, whole, other = [0, 0, 40, 40], [0, 0, 100, 100], [5, 5, 20, 20]
    boxes, scores = [part, whole, other, FAR], [0.9, 0.6, 0.3, 0.1]
    # The small one lies in both; the far one scores below 0.2; adaptive would drop the best.
    assert select_sos(boxes, scores, [0] * 4, [0]).index.tolist() == [0, 1]
    assert select_adaptive(boxes, scores, [0] * 4, [0]).index.tolist() == [1]
    low = select_sos(boxes, [0.09, 0.06, 0.03, 0.01], [0] * 4, [0])
    assert low.index.tolist() == [0]  # the best stays, whatever its score


def test_w2n_suppresses_over_the_union_and_keeps_the_best_of_each_tag() -> None:
    box, near, apart = [0, 0, 10, 10], [0, 0, 10, 6], [0, 0, 10, 5]
    found = select_w2n([box, near, apart, FAR], [0.9, 0.8, 0.75, 0.69], [0] * 4, [0])
    assert found.index.tolist() == [0, 2]  # IoU .6 goes, .5 stays
    assert select_w2n([box, FAR], [0.2, 0.1], [0, 1], [0, 1]).index.tolist() == [0, 1]


# A slow, obvious reference of every rule: one class of one image, detections as (box, score, row)
# by falling score.

Detections = list[tuple[list[float], float, int]]


def area(box: list[float]) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def overlap(a: list[float], b: list[float]) -> float:
    width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    return width * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def inside(a: list[float], b: list[float]) -> float:
    return overlap(a, b) / area(a)


def iou(a: list[float], b: list[float]) -> float:
    return overlap(a, b) / (area(a) + area(b) - overlap(a, b))


def greedy(found: Detections, order: Any, gone: Callable, safe: Any = ()) -> Detections:
    kept: Detections = []
    for one in sorted(found, key=order):
        if one[2] in safe or not any(gone(one[0], other[0]) for other in kept):
            kept.append(one)
    return [one for one in found if one in kept]


def slow_adaptive(
    found: Detections, *, score_thresh: float, containment_thresh: float, norm: str, contain: str
) -> Detections:
    scaled = slow_norm(found, norm)
    good = [one for one, s in zip(found, scaled, strict=True) if s >= score_thresh]

    def gone(a: list[float], b: list[float]) -> bool:
        return inside(a, b) >= containment_thresh

    if contain == "literal":
        return [a for a in good if not any(gone(a[0], b[0]) for b in good if b is not a)]
    by_area = (lambda one: -area(one[0])) if contain == "area" else (lambda one: 0)
    return greedy(good, by_area, gone)


def slow_norm(found: Detections, norm: str = "minmax") -> list[float]:
    scores = [score for _, score, _ in found]
    spread = max(scores) - min(scores)
    if norm == "release":
        return [s / (spread + 1e-8) for s in scores]
    return [(s - min(scores)) / spread if spread > 1e-12 else 1.0 for s in scores]


def slow_sos(found: Detections, *, score_thresh: float, containment_thresh: float) -> Detections:
    good = [found[0]] + [one for one in found[1:] if one[1] >= score_thresh]
    return greedy(
        good,
        lambda one: -area(one[0]),
        lambda a, b: inside(a, b) >= containment_thresh,
        safe=[found[0][2]],
    )


def slow_w2n(found: Detections, *, threshold: float, nms: float) -> Detections:
    good = [found[0]] + [one for one in found[1:] if one[1] >= threshold]
    return greedy(good, lambda one: 0, lambda a, b: iou(a, b) > nms)


SHARE = st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.75, 0.85, 1.0])
RULES = st.one_of(
    st.tuples(
        st.just((select_adaptive, slow_adaptive)),
        st.fixed_dictionaries(
            {
                "score_thresh": SHARE,
                "containment_thresh": SHARE,
                "norm": st.sampled_from(["minmax", "release"]),
                "contain": st.sampled_from(["area", "score", "literal"]),
            }
        ),
    ),
    st.tuples(
        st.just((select_sos, slow_sos)),
        st.fixed_dictionaries({"score_thresh": SHARE, "containment_thresh": SHARE}),
    ),
    st.tuples(
        st.just((select_w2n, slow_w2n)),
        st.fixed_dictionaries({"threshold": SHARE, "nms": SHARE}),
    ),
    st.tuples(
        st.just((select_topk, lambda found, k: [one for one in found[:k] if one[1] > 0])),
        st.fixed_dictionaries({"k": st.integers(1, 4)}),
    ),
    st.tuples(
        st.just(
            (
                select_threshold,
                lambda found, threshold: [one for one in found if one[1] >= threshold],
            )
        ),
        st.fixed_dictionaries({"threshold": SHARE}),
    ),
)


def slow_selection(
    choose: Callable,
    boxes: np.ndarray,
    scores: np.ndarray,
    keys: np.ndarray,
    tags: list[int],
    options: dict[str, Any],
) -> tuple[list[int], list[float]]:
    index, norms = [], []
    usable = usable_detections(boxes, scores)
    for tag in sorted(set(tags)):
        rows = [i for i in range(len(keys)) if keys[i] == tag and usable[i]]
        found = [(boxes[i].tolist(), float(scores[i]), i) for i in rows]
        found.sort(key=lambda one: -one[1])
        if not found:
            continue
        norm = dict(zip((i for *_, i in found), slow_norm(found, options.get("norm", "minmax")),
                        strict=True))  # fmt: skip
        for _, _, i in choose(found, **options):
            index.append(i)
            norms.append(norm[i])
    return index, norms


@settings(max_examples=400, deadline=None)
@given(RULES, st.integers(0, 60), st.sampled_from([1, 4, 20]), st.integers(0, 2**32 - 1))
def test_every_rule_equals_its_slow_reference(
    rule: Any, count: int, groups: int, seed: int
) -> None:
    # Small whole numbers: equal boxes, scores and areas, and thresholds that are met exactly.
    (fast, slow), options = rule
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 10, (count, 2))
    boxes = np.concatenate([low, low + rng.integers(0, 11, (count, 2))], axis=1).astype(float)
    scores = rng.integers(-1, 11, count) / 10
    boxes[rng.random(count) < 0.02, 0] = np.nan
    keys = rng.integers(0, groups, count)
    tags = np.flatnonzero(rng.random(groups) < 0.8).tolist()
    found: Selection = fast(boxes, scores, keys, tags, **options)
    index, norms = slow_selection(slow, boxes, scores, keys, tags, options)
    assert found.index.tolist() == index
    np.testing.assert_array_equal(found.score_norm, np.array(norms, dtype=np.float32))


def test_many_images_in_one_call_are_chosen_as_one_by_one() -> None:
    rng = np.random.default_rng(3)
    low = rng.random((900, 2)) * 60
    boxes = np.concatenate([low, low + 1 + rng.random((900, 2)) * 40], axis=1)
    scores, image, classes = rng.random(900), rng.integers(0, 30, 900), rng.integers(0, 3, 900)
    tags = [(i, c) for i in range(30) for c in (0, 2)]
    together = select_adaptive(boxes, scores, image * 3 + classes, [i * 3 + c for i, c in tags])
    apart = []
    for i in range(30):
        rows = np.flatnonzero(image == i)
        apart += rows[
            select_adaptive(boxes[rows], scores[rows], classes[rows], [0, 2]).index
        ].tolist()
    assert together.index.tolist() == apart
