"""Tables of recall: agreement with the single figures, intervals, differences, printed cells."""

import math
from pathlib import Path

import numpy as np
import pytest

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter
from weaksam_d2.data.datasets.voc import VOC_CLASSES, load_voc_records
from weaksam_d2.evaluation import (
    GroundTruth,
    RecallSettings,
    StoreView,
    average_recall,
    bootstrap_interval,
    bootstrap_intervals,
    compute_recall,
    counted_objects,
    measure_coverage,
    measure_views,
    recall_by_count,
    recall_table,
    table_rows,
)

IOUS = (0.3, 0.5)
SETTINGS = RecallSettings(
    ious=IOUS,
    average_counts=(2, 10),
    fixed_counts=(3,),
    curve_counts=(1, 2, 5, 50, 80),
    class_names=("cat", "dog"),
)


@pytest.fixture(scope="module")
def split():
    """Seven images: objects, and boxes of two kinds, the second a shifted and shorter first."""
    rng = np.random.default_rng(5)

    def boxes(count):
        corner = rng.uniform(0, 60, (count, 2))
        sides = rng.uniform(10, 40, (count, 2))
        return np.concatenate([corner, corner + sides], axis=1).astype(np.float32)

    truth = []
    for count in (3, 0, 5, 2, 1, 4, 6):
        flags = np.zeros(count, bool)
        classes = rng.integers(0, 2, count)
        truth.append(GroundTruth(boxes(count), classes, flags, flags, (100, 120)))
    ours = [boxes(count) for count in (20, 5, 12, 0, 30, 9, 60)]
    return truth, {"ours": ours, "theirs": [one[: len(one) // 2] + 1 for one in ours]}


def measured(split, settings=SETTINGS):
    truth, kinds = split
    limits = (1, 2, 3, 5, 10, 50, 80)
    return [measure_coverage(name, truth, boxes, limits=limits) for name, boxes in kinds.items()]


def test_figures_agree_with_those_computed_one_by_one(split):
    truth, kinds = split
    objects = [one.boxes for one in truth]
    table = recall_table(measured(split), truth, SETTINGS)
    for name, boxes in kinds.items():
        for match in ("one2one", "any"):
            expected = compute_recall(objects, boxes, IOUS, match)
            assert table[name][match] == pytest.approx(expected)
        assert table[name]["average_recall"] == pytest.approx(
            average_recall(objects, boxes, (2, 10))
        )
        first = compute_recall(objects, [one[:3] for one in boxes], IOUS)
        assert table[name]["fixed_counts"]["3"] == pytest.approx(first)
        curve = recall_by_count(objects, boxes, SETTINGS.curve_counts, iou=0.3)
        assert table[name]["curves"]["count"]["recall30"] == curve
    assert 0 < table["ours"]["one2one"]["recall50"] < 100
    gap = table["theirs"]["one2one"]["recall30"] - table["ours"]["one2one"]["recall30"]
    assert table["theirs"]["difference"]["recall30"] == pytest.approx(gap) and gap < 0
    assert "difference" not in table["ours"]


def test_groups_split_all_objects(split):
    truth, _ = split
    figures = recall_table(measured(split), truth, SETTINGS)["ours"]
    labels = np.concatenate([one.classes for one in truth])
    shares = [np.mean(labels == cls) for cls in (0, 1)]
    by_class = [figures["by_class"][f"recall50-{name}"] for name in ("cat", "dog")]
    assert np.dot(shares, by_class) == pytest.approx(figures["one2one"]["recall50"])
    assert set(figures["by_size"]) == {
        f"recall{iou}_{size}" for iou in (30, 50) for size in ("small", "medium", "large")
    }
    # 640 x 480 pixels are 25.6 of these images, so what is small there is medium here.
    assert math.isnan(figures["by_size"]["recall50_large"])
    assert math.isnan(figures["by_relative_size"]["recall50_small"])


def test_intervals_are_those_of_resampled_images(split):
    truth, _ = split
    settings = RecallSettings(
        ious=IOUS, average_counts=(2,), fixed_counts=(), curve_counts=(1,), resamples=40, seed=1
    )
    ours, theirs = measured(split)
    table = recall_table([ours, theirs], truth, settings)
    place = np.repeat(np.arange(len(truth)), [len(one.boxes) for one in truth])

    def reference(value):
        def figure(counts):
            weights = counts[place]
            return 100 * np.sum(weights * value) / np.sum(weights)

        return bootstrap_interval(figure, len(truth), resamples=40, seed=1)

    hit = {one.name: one.covered["one2one"][0] >= 0.3 for one in (ours, theirs)}
    for name in hit:
        figures = table[name]["one2one"]
        interval = (figures["recall30_low"], figures["recall30_high"])
        assert interval == pytest.approx(reference(hit[name].astype(float)))
        assert interval[0] < figures["recall30"] < interval[1]
    difference = table["theirs"]["difference"]
    expected = reference(hit["theirs"].astype(float) - hit["ours"])
    assert (difference["recall30_low"], difference["recall30_high"]) == pytest.approx(expected)
    assert "AR@2_low" in table["ours"]["average_recall"]
    assert "per_image_low" not in table["ours"]["one2one"]


def test_a_kind_does_not_differ_from_itself(split):
    truth, kinds = split
    limits = (1, 2, 3, 5, 10, 50, 80)
    both = [measure_coverage(name, truth, kinds["ours"], limits=limits) for name in ("a", "b")]
    settings = RecallSettings(
        ious=(0.5,), average_counts=(), fixed_counts=(), curve_counts=(1,), resamples=5
    )
    assert set(recall_table(both, truth, settings)["b"]["difference"].values()) == {0.0}
    with pytest.raises(ValueError, match=r"different names, got \['a', 'a'\]"):
        recall_table([both[0], both[0]], truth, settings)


def test_a_split_without_objects_has_no_recall(split):
    truth, kinds = split
    empty = [truth[1]] * len(truth)
    limits = (1, 2, 3, 5, 10, 50, 80)
    coverage = measure_coverage("ours", empty, kinds["ours"], limits=limits)
    settings = RecallSettings(
        ious=IOUS, average_counts=(2,), fixed_counts=(3,), resamples=3, curve_counts=(1, 5)
    )
    figures = recall_table([coverage], empty, settings)["ours"]
    assert math.isnan(figures["one2one"]["recall50"])
    assert math.isnan(figures["one2one"]["recall50_low"])
    assert figures["one2one"]["per_image"] == pytest.approx(136 / 7)


def test_intervals_of_several_figures_are_those_of_each():
    values = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 7.0]])

    def means(counts):
        return counts @ values / counts.sum()

    low, high = bootstrap_intervals(means, 3, resamples=30, seed=2)
    for column in range(2):
        single = bootstrap_interval(lambda c, k=column: means(c)[k], 3, resamples=30, seed=2)
        assert (low[column], high[column]) == pytest.approx(single, nan_ok=True)
    assert 1 <= low[0] < high[0] <= 5 and np.isnan(low[1])


def test_printed_rows_show_intervals(split):
    truth, _ = split
    settings = RecallSettings(
        ious=(0.5,), average_counts=(2,), fixed_counts=(), curve_counts=(1,), resamples=9
    )
    headers, rows = table_rows(recall_table(measured(split), truth, settings), settings)
    assert headers == ["proposals", "boxes", "recall50", "recall50 any", "AR@2"]
    assert rows[0][:2] == ["ours", "19.4"]
    assert rows[0][2].count("[") == 1 and "[" not in rows[0][3]


@pytest.mark.assets
def test_true_boxes_of_real_annotations_cover_every_object(real_data: Path, tmp_path: Path):
    records = load_voc_records(real_data / "voc2012", "animals_val", VOC_CLASSES)[:12]
    ids = [str(record["image_id"]) for record in records]
    truth = counted_objects(records)
    easy = counted_objects(records, difficult=False)
    assert sum(len(one.boxes) for one in truth) >= 12
    with ProposalStoreWriter(tmp_path / "s") as writer:
        for image_id, one in zip(ids, easy, strict=True):
            writer.add(image_id, one.boxes, image_size=one.size)
    views = [StoreView("true", ProposalStore.open(tmp_path / "s"))]
    settings = RecallSettings(class_names=VOC_CLASSES)
    figures = recall_table(measure_views(views, easy, ids, settings), easy, settings)["true"]
    assert {figures[m][f"recall{iou}"] for m in ("one2one", "any") for iou in (50, 75, 90)} == {100}
    assert figures["average_recall"]["AR@1000"] == 100
    assert figures["one2one"]["per_image"] == sum(len(one.boxes) for one in easy) / 12
