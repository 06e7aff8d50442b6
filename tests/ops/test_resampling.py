"""Average precision of many resamples at once: against one resample after another."""

import numpy as np
import pytest

from weaksam_d2.ops import (
    bootstrap_indices,
    precision_recall,
    resampled_ap,
    resampled_counts,
    voc_ap,
)

LEVELS = {"11point": np.arange(11) / 10, "area": None}


def judged(rng: np.random.Generator, images: int, detections: int) -> tuple[np.ndarray, ...]:
    """Random matches of one class: image, hit and miss of each detection, objects of images."""
    image = rng.integers(0, images, detections)
    hit = rng.random(detections) < 0.4
    miss = ~hit & (rng.random(detections) < 0.8)
    positives = np.bincount(image[hit], minlength=images) + rng.integers(0, 2, images)
    return image, hit, miss, positives


@pytest.mark.parametrize("metric", ["11point", "area"])
def test_every_resample_has_the_ap_of_its_weights(metric: str) -> None:
    rng = np.random.default_rng(0)
    for images, detections in ((1, 3), (4, 12), (9, 60), (30, 20)):
        image, hit, miss, positives = judged(rng, images, detections)
        counts = np.concatenate(list(resampled_counts(images, 25, 1)))
        found = resampled_ap(image, hit, miss, positives, counts, recall_levels=LEVELS[metric])
        for row, value in zip(counts, found, strict=True):
            curve = precision_recall(hit, miss, float(row @ positives), row[image])
            np.testing.assert_allclose(value, voc_ap(*curve, metric), atol=1e-12)


def test_resamples_without_objects_or_detections() -> None:
    counts = np.array([[2, 0], [0, 2], [1, 1]])
    none = np.zeros(0)
    assert np.isnan(resampled_ap(none, none, none, [0, 0], counts)).all()
    found = resampled_ap(none, none, none, [1, 0], counts)
    np.testing.assert_array_equal(found, [0, np.nan, 0])
    only_hit = resampled_ap([0], [True], [False], [1, 0], counts)
    np.testing.assert_array_equal(only_hit, [1, np.nan, 1])


def test_misses_below_the_last_hit_change_nothing() -> None:
    counts = np.array([[1, 1]])
    before = resampled_ap([0, 1], [False, True], [True, False], [1, 1], counts)
    after = resampled_ap([0, 1, 1], [False, True, False], [True, False, True], [1, 1], counts)
    assert before == after == pytest.approx(0.5 * 0.5)


@pytest.mark.parametrize("block", [1, 7, 100])
def test_counts_are_those_of_the_indices_whatever_the_block(block: int) -> None:
    rows = bootstrap_indices(11, 23, seed=5)
    expected = [np.bincount(row, minlength=11) for row in rows]
    found = np.concatenate(list(resampled_counts(11, 23, 5, block=block)))
    np.testing.assert_array_equal(found, expected)
    assert next(resampled_counts(0, 4, 0)).shape == (4, 0)
