"""Figures of folders of label maps."""

from pathlib import Path

import numpy as np
import pytest

from weaksam_d2.artifacts import LabelSpace, SemSegLabels, SemSegLabelsWriter
from weaksam_d2.evaluation import LabelFigures, LabelTally, evaluate_labels, label_table

SPACE = LabelSpace("toy", ["cat", "dog"])
TRUTH = {
    "a": np.array([[0, 0, 1, 1, 2, 255]], np.uint8),
    "b": np.array([[0, 0, 0], [1, 1, 1]], np.uint8),
}
PREDICTED = {
    "a": np.array([[0, 255, 1, 1, 0, 2]], np.uint8),
    "b": np.array([[0, 0, 1], [1, 1, 0]], np.uint8),
}


def labels_in(folder: Path, maps: dict[str, np.ndarray]) -> SemSegLabels:
    arguments = {"system": "CAM", "base": "custom", "supervision": "image_labels"}
    with SemSegLabelsWriter(folder, space=SPACE, overwrite=True, **arguments) as writer:
        for image_id, label in maps.items():
            writer.add(image_id, label)
    return SemSegLabels.open(folder)


def figures_of(tmp_path: Path) -> LabelFigures:
    labels = labels_in(tmp_path / "labels", PREDICTED)
    return evaluate_labels(labels, TRUTH.__getitem__, SPACE, image_ids=["a", "b"])


def test_figures_of_two_images_by_hand(tmp_path: Path) -> None:
    figures = figures_of(tmp_path)
    # Rows: truth. Image a: [1, 0, 0 | 1], [0, 2, 0 | 0], [1, 0, 0 | 0]; b: [2, 1, 0], [1, 2, 0].
    assert figures.matrix.tolist() == [[3, 1, 0, 1], [1, 4, 0, 0], [1, 0, 0, 0]]
    found = figures.summary()
    assert found["mIoU"] == pytest.approx(100 * (3 / 7 + 4 / 6 + 0) / 3)
    assert found["precision"] == pytest.approx(100 * (3 / 5 + 4 / 5) / 2)  # no dog is predicted
    assert found["recall"] == pytest.approx(100 * (3 / 5 + 4 / 5 + 0) / 3)
    assert found["miss_rate"] == pytest.approx(100 - found["recall"])
    assert found["false_discovery_rate"] == pytest.approx(100 - found["precision"])
    assert found["image_precision"] == pytest.approx(100 * ((1 / 2 + 1) / 2 + 2 / 3) / 2)
    assert found["image_recall"] == pytest.approx(100 * ((1 / 2 + 1 + 0) / 3 + 2 / 3) / 2)
    assert found["ignored_ratio"] == pytest.approx(100 / 11)
    assert (found["num_classes"], found["images"]) == (3, 2)
    rows = figures.per_class()
    assert list(rows) == ["background", "cat", "dog"]
    assert rows["cat"] == pytest.approx(
        {
            "IoU": 100 * 4 / 6,
            "precision": 80.0,
            "recall": 80.0,
            "miss_rate": 20.0,
            "false_discovery_rate": 20.0,
        }
    )
    assert rows["dog"]["miss_rate"] == 100 and np.isnan(rows["dog"]["false_discovery_rate"])


def test_intervals_hold_what_resampling_by_hand_gives(tmp_path: Path) -> None:
    figures = figures_of(tmp_path)
    found = figures.summary(bootstrap=200, seed=3)
    assert found == figures.summary(bootstrap=200, seed=3)
    possible = []
    for times in ([2, 0], [1, 1], [0, 2]):
        tally = LabelTally(3)
        for image_id, count in zip("ab", times, strict=True):
            for copy in range(count):
                tally.add(f"{image_id}{copy}", TRUTH[image_id], PREDICTED[image_id])
        possible.append(tally.figures(SPACE.classes).summary())
    for name in ("mIoU", "precision", "recall", "image_precision", "image_recall"):
        values = [one[name] for one in possible]
        assert found[f"{name}_low"] == pytest.approx(min(values))
        assert found[f"{name}_high"] == pytest.approx(max(values))


def test_a_truth_without_any_label_gives_no_figure(tmp_path: Path) -> None:
    labels = labels_in(tmp_path / "labels", {"a": np.zeros((2, 2), np.uint8)})
    none = np.full((2, 2), 255, np.uint8)
    found = evaluate_labels(labels, lambda _: none, SPACE, image_ids=["a"]).summary(bootstrap=5)
    assert np.isnan(found["mIoU"]) and np.isnan(found["mIoU_low"]) and found["num_classes"] == 0
    assert "–" in label_table({"nothing": found})


def test_images_that_are_missing_or_of_another_size_are_named(tmp_path: Path) -> None:
    labels = labels_in(tmp_path / "labels", {"a": np.zeros((2, 2), np.uint8)})
    with pytest.raises(ValueError, match=r"1 of 2 images .*\['b'\]"):
        evaluate_labels(labels, TRUTH.__getitem__, SPACE, image_ids=["a", "b"])
    with pytest.raises(ValueError, match=r"a\.png'.*the true labels are \(1, 6\)"):
        evaluate_labels(labels, TRUTH.__getitem__, SPACE, image_ids=["a"])
    tally = LabelTally(3)
    tally.add("a", TRUTH["a"], PREDICTED["a"])
    with pytest.raises(ValueError, match="'a' was counted before"):
        tally.add("a", TRUTH["a"], PREDICTED["a"])


def test_a_table_has_a_row_for_each_source_and_its_interval(tmp_path: Path) -> None:
    figures = figures_of(tmp_path)
    text = label_table({"CAM": figures.summary(), "SEPL": figures.summary(bootstrap=20)})
    header, _, first, second = text.splitlines()
    assert header.split()[:2] == ["labels", "mIoU"]
    assert first.split()[:2] == ["CAM", "36.51"] and "[" not in first
    assert second.startswith("SEPL") and "36.51 [" in second
