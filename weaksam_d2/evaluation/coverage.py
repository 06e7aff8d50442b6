"""How the proposals of a split cover its objects, measured image by image.

Nothing but one number for each object, matching and count is kept, so stores of any size fit.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from weaksam_d2.evaluation.collect import GroundTruth
from weaksam_d2.evaluation.recall import AR_IOUS, MATCHERS, blocked_iou, recall_key
from weaksam_d2.ops import one2one_recall_iou

__all__ = ["Coverage", "counted_objects", "measure_coverage", "object_values", "per_image_sums"]

ALL = 0  # the limit that stands for all boxes of an image


@dataclass(frozen=True)
class Coverage:
    """IoU with which each of G objects is covered by one kind of proposals.

    ``counts`` int64 (I,): boxes of each image. ``covered[match][limit]`` float64 (G,): with the
    first ``limit`` boxes of each image, 0 for all; objects image after image.
    """

    name: str
    counts: np.ndarray
    covered: Mapping[str, Mapping[int, np.ndarray]]

    def mean_count(self, limit: int = ALL) -> float:
        """Mean number of boxes of an image; NaN without images."""
        counts = np.minimum(self.counts, limit) if limit else self.counts
        return float(counts.mean()) if len(counts) else float("nan")


def counted_objects(
    records: Sequence[Mapping[str, Any]], *, difficult: bool = True
) -> list[GroundTruth]:
    """Objects of annotated records that recall counts: crowds never, difficult ones if asked.

    What does not count takes no proposal away either. WeakSAM counts difficult objects.
    """
    counted = []
    for record in records:
        truth = GroundTruth.from_record(record)
        keep = ~truth.crowd
        if not difficult:
            keep &= ~truth.difficult
        counted.append(
            GroundTruth(
                truth.boxes[keep],
                truth.classes[keep],
                truth.difficult[keep],
                truth.crowd[keep],
                truth.size,
            )
        )
    return counted


def measure_coverage(
    name: str,
    truth: Sequence[GroundTruth],
    boxes: Iterable[np.ndarray],
    *,
    limits: Sequence[int] = (),
) -> Coverage:
    """Measure with all boxes (both matchings) and with the first N (one2one) for N of ``limits``.

    ``boxes`` are the proposals (n, 4) of each image in the order of rank, read one by one. An
    image without proposals has missed its objects.

    Raises:
        ValueError: a limit below 1, or not as many entries in ``boxes`` as in ``truth``.
    """
    if min(limits, default=1) < 1:
        raise ValueError(f"counts of first boxes must be positive, got {sorted(limits)}")
    steps = sorted(set(limits))
    counts = np.zeros(len(truth), np.int64)
    parts: dict[tuple[str, int], list[np.ndarray]] = {
        key: [np.zeros(0)] for key in [(m, ALL) for m in MATCHERS] + [("one2one", n) for n in steps]
    }
    for image, (one, proposals) in enumerate(zip(truth, boxes, strict=True)):
        counts[image] = len(proposals)
        iou = blocked_iou(one.boxes, proposals)
        found = {match: matcher(iou) for match, matcher in MATCHERS.items()}
        for match, value in found.items():
            parts[match, ALL].append(value)
        for limit in steps:
            whole = limit >= len(proposals)
            value = found["one2one"] if whole else one2one_recall_iou(iou[:, :limit])
            parts["one2one", limit].append(value)
    covered: dict[str, dict[int, np.ndarray]] = {match: {} for match in MATCHERS}
    for (match, limit), values in parts.items():
        covered[match][limit] = np.concatenate(values)
    return Coverage(name, counts, covered)


def object_values(
    coverage: Coverage, *, ious: Sequence[float], average_counts: Sequence[int]
) -> dict[tuple[str, str], np.ndarray]:
    """What each object adds to a figure, float64 (G,) in [0, 1], by (kind, name) of the figure.

    Kinds are ``one2one`` and ``any`` (``recall50`` …: covered at this IoU or not) and
    ``average_recall`` (``AR@100``: share of the IoU .5:.05:.95). A figure is the mean over the
    objects, in percent.
    """
    values: dict[tuple[str, str], np.ndarray] = {}
    for match in MATCHERS:
        for iou in ious:
            covered = coverage.covered[match][ALL]
            values[match, recall_key(iou)] = (covered >= iou).astype(np.float64)
    for count in average_counts:
        covered = coverage.covered["one2one"][count]
        share = (covered[:, None] >= AR_IOUS).mean(axis=1)
        values["average_recall", f"AR@{count}"] = share
    return values


def per_image_sums(truth: Sequence[GroundTruth], values: np.ndarray) -> np.ndarray:
    """Sum values (G, F) of objects over each image: float64 (I, F)."""
    image = np.repeat(np.arange(len(truth)), [len(one.boxes) for one in truth])
    sums = np.zeros((len(truth), values.shape[1]))
    np.add.at(sums, image, values)
    return sums
