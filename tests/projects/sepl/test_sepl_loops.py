"""SEPL against loops over masks, classes and pixels, as its rules are written down."""

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from weaksam_d2.projects.sepl import PAPER, REFERENCE, MaskSet, SEPLSettings, enhance_labels
from weaksam_d2.projects.sepl.choose import forest, select_in_forest

from weaksam_d2.ops import encode_rle

Pixels = set[tuple[int, int]]


def where(array: np.ndarray) -> Pixels:
    return {(int(row), int(column)) for row, column in zip(*np.nonzero(array), strict=True)}


def loops(label: np.ndarray, masks: np.ndarray, scores: np.ndarray, s: SEPLSettings) -> np.ndarray:
    """Every mask against every class, pixel by pixel."""
    limit = s.max_mask_fraction * label.size
    sets = {row: where(mask) for row, mask in enumerate(masks) if 0 < mask.sum() <= limit}
    seeds = {k: where(label == k) for k in range(1, 255) if (label == k).any()}
    result = label.copy()
    if s.ignore == "background":
        result[result == 255] = 0
    if not len(masks) or not seeds:
        return result
    big = {k: seed for k, seed in seeds.items() if len(seed) >= s.min_class_pixels}
    best = {row: best_class(mask, big) for row, mask in sets.items()}
    taken: dict[int, int] = {}
    items: list[tuple[int, float, int, Pixels]] = []  # area, score, class, pixels
    for k, seed in sorted(seeds.items()):
        free = [row for row in sets if row not in taken]
        for row in free:
            wanted = best[row] == k if s.assign == "best" else k in big
            if wanted and passes(sets[row], seed, s):
                taken[row] = k
                items.append((len(sets[row]), float(scores[row]), k, sets[row]))
        if s.fallback == "uncovered_pixels":
            rest = seed - set().union(*(sets[row] for row in free))
        else:
            rest = set() if k in taken.values() else seed
        items.append((len(rest), -np.inf, k, rest))
    order = (lambda i: (-i[0], i[1], -i[2])) if s.conflict == "area" else (lambda i: (i[2],))
    result[result != 255] = 0
    for _, _, k, pixels in sorted(items, key=order):
        for row, column in pixels:
            result[row, column] = k
    return result


def best_class(mask: Pixels, seeds: dict[int, Pixels]) -> int:
    shared = {k: len(mask & seed) for k, seed in seeds.items() if mask & seed}
    return min(shared, key=lambda k: (-shared[k], k)) if shared else 0


def passes(mask: Pixels, seed: Pixels, s: SEPLSettings) -> bool:
    shared = len(mask & seed)
    of_class = shared / len(seed)
    return shared / len(mask) > s.t1 or of_class > s.t2 or (not s.strict and of_class == s.t2)


def picture(seed: int, height: int, width: int, count: int) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    label = rng.choice([0, 0, 1, 1, 2, 5, 255], (height, width)).astype(np.uint8)
    masks = rng.random((count, height, width)) < rng.random((count, 1, 1))
    return label, masks, rng.choice([0.5, 0.9], count)


side = st.integers(1, 7)
PICTURES = st.builds(picture, st.integers(0, 10**6), side, side, st.integers(0, 7))
OPTIONS = st.fixed_dictionaries(
    {
        "assign": st.sampled_from(["best", "greedy"]),
        "fallback": st.sampled_from(["class", "uncovered_pixels"]),
        "conflict": st.sampled_from(["area", "class_id"]),
        "ignore": st.sampled_from(["keep", "background"]),
        "strict": st.booleans(),
        "t1": st.sampled_from([0.2, 0.5, 0.7]),
        "t2": st.sampled_from([0.5, 0.75, 0.85]),
        "max_mask_fraction": st.sampled_from([0.5, 1.0]),
        "min_class_pixels": st.sampled_from([0, 4]),
    }
)


def compare(drawn: tuple[np.ndarray, ...], setting: SEPLSettings) -> None:
    label, masks, scores = drawn
    encoded = MaskSet(tuple(encode_rle(masks)), label.shape, scores)
    ours, _ = enhance_labels(label, encoded, settings=setting)
    np.testing.assert_array_equal(ours, loops(label, masks, scores, setting))


@pytest.mark.parametrize("setting", [PAPER, REFERENCE], ids=["paper", "reference"])
@given(drawn=PICTURES)
@settings(max_examples=150, deadline=None)
def test_both_settings_give_what_the_loops_give(setting: SEPLSettings, drawn: Any) -> None:
    compare(drawn, setting)


@given(PICTURES, OPTIONS)
@settings(max_examples=200, deadline=None)
def test_every_mixture_of_options_gives_what_the_loops_give(drawn: Any, options: Any) -> None:
    compare(drawn, replace(PAPER, **options))


def slow_forest(inside: np.ndarray, areas: np.ndarray) -> list[int]:
    """The parent of each mask, -1 for none."""
    parents = []
    for child, area in enumerate(areas):
        found = [
            (areas[other], other)
            for other in range(len(areas))
            if (areas[other] > area or (areas[other] == area and other < child))
            and area > 0
            and inside[child, other] >= 0.95
        ]
        parents.append(min(found)[1] if found else -1)
    return parents


def slow_tree(parents: list[int], iou: np.ndarray, good: np.ndarray) -> list[int]:
    """Masks taken on the paths from the leaves to their roots."""
    chains = []
    for mask in range(len(parents)):
        chain = [mask]
        while parents[chain[-1]] >= 0:
            chain.append(parents[chain[-1]])
        chains.append(chain)
    taken = set()
    for leaf in set(range(len(parents))) - set(parents):
        path = [mask for mask in reversed(chains[leaf]) if good[mask]]  # the root first
        if path:
            taken.add(max(path, key=lambda mask: iou[mask]))
    for low, high in itertools.permutations(sorted(taken), 2):
        if high in chains[low]:  # high holds low
            taken.discard(low if iou[high] >= iou[low] else high)
    return sorted(taken)


@given(st.integers(0, 10**6), st.integers(0, 10))
@settings(max_examples=150, deadline=None)
def test_the_masks_of_a_forest_are_taken_as_its_paths_say(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    # Nested intervals: what one of them holds is often held by a second one as well.
    start = rng.integers(0, 12, count)
    stop = np.minimum(start + rng.integers(0, 12, count), 12)
    line = np.arange(12)
    masks = (line >= start[:, None]) & (line < stop[:, None])
    areas = masks.sum(axis=1)
    shared = masks.astype(int) @ masks.T.astype(int)
    inside = shared / np.maximum(areas, 1)[:, None]
    parents = slow_forest(inside, areas)
    above = forest(inside, areas)
    for mask, parent in enumerate(parents):
        ancestors = {mask} | (set(np.flatnonzero(above[parent])) if parent >= 0 else set())
        assert set(np.flatnonzero(above[mask])) == ancestors
    iou, good = rng.choice([0.2, 0.4, 0.6], count), (areas > 0) & (rng.random(count) < 0.7)
    assert select_in_forest(above, iou, good, areas).tolist() == slow_tree(parents, iou, good)
