"""What was made of detections, counted for each class."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

__all__ = ["PseudoGTCounter", "PseudoGTReport", "format_statistics"]

QUANTILES = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass
class PseudoGTReport:
    """What was made of the detections, and what was left out."""

    images: int = 0
    images_without_annotation: int = 0
    annotations: int = 0
    boxes_per_image: float = 0.0
    boxes_per_class: dict[str, int] = field(default_factory=dict)
    skipped_classes: int = 0  # (image, tag) pairs that no detection supports
    pairs_without_boxes: int = 0  # (image, tag) pairs that got no box, those among them
    untagged_detections: int = 0  # of a class that the image does not have
    degenerate_detections: int = 0  # not finite, or empty after clipping
    # {name: {"boxes", "images_with_tag", "images_with_boxes", "pairs_without_boxes",
    # "score_quantiles" (raw scores at 0, 25, 50, 75 and 100 %; [] without boxes)}}
    per_class: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give the fields, ready for JSON."""
        return asdict(self)


class PseudoGTCounter:
    """Counts batch by batch; keeps eight bytes for a box and nothing for an image.

    Pairs are numbers ``image * C + class`` within a batch, where C is ``len(names)``.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self._names = list(names)
        # rows: tagged images, images with boxes
        self._images = np.zeros((2, len(self._names)), dtype=np.int64)
        self._scores = [array("d") for _ in self._names]
        self._report = PseudoGTReport()

    def leave_out(self, *, degenerate: int, untagged: int) -> None:
        """Count detections that no rule saw."""
        self._report.degenerate_detections += degenerate
        self._report.untagged_detections += untagged

    def add(
        self,
        images: int,
        tagged: np.ndarray,
        supported: np.ndarray,
        chosen: np.ndarray,
        scores: np.ndarray,
    ) -> None:
        """Count a batch of ``images`` images.

        tagged: pairs of image and tag. supported: pair of each usable detection of a tag. chosen,
        scores: pair and raw score of each box.
        """
        classes = len(self._names)
        pairs, boxed = np.unique(tagged), np.unique(chosen)
        for row, kind in enumerate((pairs, boxed)):
            self._images[row] += np.bincount(kind % classes, minlength=classes)
        for label in np.unique(chosen % classes):
            self._scores[label].extend(scores[chosen % classes == label].tolist())
        report = self._report
        report.images += images
        report.annotations += len(chosen)
        report.images_without_annotation += images - len(np.unique(chosen // classes))
        report.skipped_classes += len(pairs) - len(np.unique(supported))
        report.pairs_without_boxes += len(pairs) - len(boxed)

    def report(self) -> PseudoGTReport:
        """Everything that was counted so far."""
        report = self._report
        report.boxes_per_image = report.annotations / max(1, report.images)
        for label, name in enumerate(self._names):
            scores = np.frombuffer(self._scores[label]) if self._scores[label] else np.zeros(0)
            tagged, boxed = (int(count) for count in self._images[:, label])
            report.boxes_per_class[name] = len(scores)
            report.per_class[name] = {
                "boxes": len(scores),
                "images_with_tag": tagged,
                "images_with_boxes": boxed,
                "pairs_without_boxes": tagged - boxed,
                "score_quantiles": np.quantile(scores, QUANTILES).tolist() if len(scores) else [],
            }
        return report


def format_statistics(statistics: Mapping[str, Any]) -> str:
    """A report's dictionary as text: the totals, then a table of the classes."""
    lines = [
        f"{name}: {value:.3f}" if isinstance(value, float) else f"{name}: {value}"
        for name, value in statistics.items()
        if not isinstance(value, Mapping)
    ]
    head = ("class", "boxes", "images", "without", *(f"score {q:.0%}" for q in QUANTILES))
    table = [head]
    for name, row in statistics["per_class"].items():
        counts = (row["boxes"], row["images_with_tag"], row["pairs_without_boxes"])
        scores = [f"{score:.3f}" for score in row["score_quantiles"]] or ["-"] * len(QUANTILES)
        table.append((name, *map(str, counts), *scores))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for cells in table:
        padded = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
        lines.append("  ".join([cells[0].ljust(widths[0]), *padded]))
    return "\n".join(lines)
