"""Figures of label maps: collected image by image, with intervals over the images."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from weaksam_d2.artifacts import LabelSpace
from weaksam_d2.evaluation.bootstrap import batched_intervals
from weaksam_d2.ops import (
    ClassCounts,
    class_counts,
    confusion_matrix,
    false_discovery_rate,
    ignored_ratio,
    iou_per_class,
    mean_over_classes,
    miss_rate,
    precision_per_class,
    recall_per_class,
)

__all__ = ["LabelFigures", "LabelTally", "Labels", "evaluate_labels"]

Truth = Callable[[str], np.ndarray]

_PER_CLASS: dict[str, Callable[[ClassCounts], np.ndarray]] = {
    "IoU": iou_per_class,
    "precision": precision_per_class,
    "recall": recall_per_class,
    "miss_rate": miss_rate,
    "false_discovery_rate": false_discovery_rate,
}
_MEANS = {"mIoU": iou_per_class, "precision": precision_per_class, "recall": recall_per_class}
_OF_IMAGES = {"image_precision": precision_per_class, "image_recall": recall_per_class}


class Labels(Protocol):
    """A folder of label maps, or what can be read like one: uint8 (H, W) by image id."""

    @property
    def image_ids(self) -> Sequence[str]:
        """The images that have a label map."""

    def __getitem__(self, image_id: str, /) -> np.ndarray:
        """The label map of one image."""


@dataclass(frozen=True)
class LabelFigures:
    """How the label maps of a set agree with the true ones (wsss.md, Sec. 2).

    matrix: int64 (N, N + 1) of :func:`weaksam_d2.ops.confusion_matrix`, summed over the images;
    counts: its row and column sums for each image, int64 (I, N). ``classes`` are the N names,
    background first. All figures are percentages; what cannot be measured is NaN.
    """

    classes: tuple[str, ...]
    image_ids: tuple[str, ...]
    matrix: np.ndarray
    counts: ClassCounts

    def summary(self, *, bootstrap: int = 0, seed: int = 0) -> dict[str, float]:
        """``mIoU`` first; means over the classes that occur, then means over the images.

        ``image_precision`` and ``image_recall`` are means over the classes of an image, then over
        the images (SEPL reports such averages). ``ignored_ratio`` is the share of the pixels that
        the prediction left without a label. ``bootstrap`` resamples of the images add ``_low`` and
        ``_high`` (95 %).
        """
        total = class_counts(self.matrix)
        figures = {name: 100 * float(mean_over_classes(of(total))) for name, of in _MEANS.items()}
        once = np.ones((1, len(self.image_ids)))
        figures |= {
            name: 100 * float(_weighted_mean(mean_over_classes(of(self.counts)), once)[0])
            for name, of in _OF_IMAGES.items()
        }
        if bootstrap:
            figures |= self._intervals(bootstrap, seed)
        for name in ("miss_rate", "false_discovery_rate"):
            figures[name] = 100 * float(mean_over_classes(_PER_CLASS[name](total)))
        figures["ignored_ratio"] = 100 * ignored_ratio(self.matrix)
        figures["num_classes"] = float((~np.isnan(iou_per_class(total))).sum())
        return {**figures, "images": float(len(self.image_ids))}

    def per_class(self) -> dict[str, dict[str, float]]:
        """IoU, precision, recall, miss rate and false discovery rate by class name."""
        total = class_counts(self.matrix)
        columns = {name: 100 * of(total) for name, of in _PER_CLASS.items()}
        return {
            cls: {name: float(values[row]) for name, values in columns.items()}
            for row, cls in enumerate(self.classes)
        }

    def _intervals(self, resamples: int, seed: int) -> dict[str, float]:
        parts = [part.astype(np.float64) for part in self.counts]
        of_images = [mean_over_classes(of(self.counts)) for of in _OF_IMAGES.values()]

        def figures(times: np.ndarray) -> np.ndarray:
            drawn = ClassCounts(*(times @ part for part in parts))
            means = [mean_over_classes(of(drawn)) for of in _MEANS.values()]
            means += [_weighted_mean(values, times) for values in of_images]
            return np.stack(means, axis=1)

        low, high = batched_intervals(figures, len(self.image_ids), resamples=resamples, seed=seed)
        return {
            f"{name}_{side}": 100 * float(values[column])
            for column, name in enumerate((*_MEANS, *_OF_IMAGES))
            for side, values in (("low", low), ("high", high))
        }


def _weighted_mean(values: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Means (B,) of values (I,) where image i counts times[b, i]; NaN does not count."""
    there = ~np.isnan(values)
    weight = times @ there.astype(np.float64)
    total = times @ np.where(there, values, 0.0)
    return np.divide(total, weight, out=np.full(len(times), np.nan), where=weight > 0)


class LabelTally:
    """Counts label maps image by image: one matrix in all, a few integers for each image.

    ``counts`` by image id are int32 (3, N): hits, predicted, true.
    """

    def __init__(self, num_labels: int, *, ignore: int = 255) -> None:
        self.matrix = np.zeros((num_labels, num_labels + 1), np.int64)
        self.counts: dict[str, np.ndarray] = {}
        self._num_labels = num_labels
        self._ignore = ignore

    def add(self, image_id: str, truth: np.ndarray, prediction: np.ndarray) -> None:
        """Count one image.

        Raises:
            ValueError: counted before, another size, or a value that is no label.
        """
        if image_id in self.counts:
            raise ValueError(f"image {image_id!r} was counted before")
        matrix = confusion_matrix(truth, prediction, self._num_labels, ignore=self._ignore)
        self.matrix += matrix
        self.counts[image_id] = np.stack(class_counts(matrix)).astype(np.int32)

    def figures(self, classes: Sequence[str]) -> LabelFigures:
        """Figures of everything that was counted."""
        return joined_figures(classes, self.matrix, self.counts)


def joined_figures(
    classes: Sequence[str], matrix: np.ndarray, counts: dict[str, np.ndarray]
) -> LabelFigures:
    """Figures of a summed matrix and of the counts of its images."""
    rows = np.array(list(counts.values()), np.int64).reshape(-1, 3, len(classes))
    parts = ClassCounts(rows[:, 0], rows[:, 1], rows[:, 2])
    return LabelFigures(tuple(classes), tuple(counts), matrix, parts)


def evaluate_labels(
    labels: Labels, truth: Truth, space: LabelSpace, *, image_ids: Iterable[str]
) -> LabelFigures:
    """Figures of a folder of label maps, which may hold 255 (no label), on some of its images.

    Args:
        labels: by image id, as ``SemSegLabels``.
        truth: the true label map of an image, as :class:`TrueLabels`.
        space: what the values of both mean.
        image_ids: the images that count, all of which must be in ``labels``.

    Raises:
        ValueError: images without a label map, or a value that is no label; names the image.
    """
    wanted, known = list(image_ids), set(labels.image_ids)
    missing = [image_id for image_id in wanted if image_id not in known]
    if missing or not wanted:
        raise ValueError(
            f"{len(missing)} of {len(wanted)} images with true labels have no label map, for "
            f"example {missing[:3]}; make them, or evaluate on a part of the data set (name@N)"
        )
    tally = LabelTally(space.num_labels, ignore=space.ignore)
    for image_id in wanted:
        prediction = labels[image_id]
        try:
            tally.add(image_id, truth(image_id), prediction)
        except ValueError as error:
            raise ValueError(f"{_where(labels, image_id)}: {error}") from error
    return tally.figures(space.classes)


def _where(labels: Any, image_id: str) -> str:
    path = getattr(labels, "path", None)
    return f"'{path(image_id)}'" if callable(path) else f"label map of image {image_id!r}"
