"""SAM's masks of an image as runs of pixels: counted and compared without being decoded."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

from weaksam_d2.artifacts import Proposals

__all__ = ["MaskSet", "Runs", "containment", "count_dense", "count_overlaps", "decode_runs"]


@dataclass(frozen=True, eq=False)
class MaskSet:
    """Masks of one image in rank order: compressed COCO RLE counts and the size they stand for.

    ``scores`` float (L,): predicted IoU, NaN or None where it is not known.
    """

    counts: tuple[bytes, ...]
    size: tuple[int, int]
    scores: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.counts)

    @classmethod
    def of(cls, proposals: Proposals) -> "MaskSet":
        """Take the masks of one image of a `ProposalStore`.

        Raises:
            ValueError: there are proposals, but no masks.
        """
        if proposals.masks is None and len(proposals):
            raise ValueError(f"there are {len(proposals)} boxes without masks")
        return cls(tuple(proposals.masks or ()), proposals.image_size, proposals.scores)


@dataclass(frozen=True, eq=False)
class Runs:
    """Where masks lie in an image whose pixels are numbered column by column.

    ``start``, ``stop`` int64 (R,): half-open runs, those of a mask beside each other;
    ``offsets`` int64 (L + 1,): the runs of mask l are [offsets[l], offsets[l + 1]).
    """

    start: np.ndarray
    stop: np.ndarray
    offsets: np.ndarray

    def areas(self) -> np.ndarray:
        """Pixels of each mask, int64 (L,)."""
        return self.total(self.stop - self.start)

    def total(self, values: np.ndarray) -> np.ndarray:
        """Sum values (..., R) of the runs over each mask; returns int64 (..., L)."""
        ends = np.zeros((*values.shape[:-1], values.shape[-1] + 1), np.int64)
        np.cumsum(values, axis=-1, out=ends[..., 1:])
        return np.diff(ends[..., self.offsets], axis=-1)


def decode_runs(counts: Sequence[bytes], size: tuple[int, int]) -> Runs:
    """Return the runs of masks in compressed COCO RLE, all masks of an image at once.

    A number is written five bits a character, lowest first, a sixth bit says that it goes on; from
    the fourth number of a mask on it is the difference to the last but one (pycocotools).

    Raises:
        ValueError: a mask that is cut off or does not have the pixels of ``size``.
    """
    if not counts:
        none = np.zeros(0, np.int64)
        return Runs(none, none, np.zeros(1, np.int64))
    data = np.frombuffer(b"".join(counts), np.uint8) - np.uint8(48)
    ends = np.cumsum([len(code) for code in counts])
    stops = np.flatnonzero(data < 32)  # the last characters of the numbers
    numbers = np.diff(np.searchsorted(stops, ends), prepend=0)  # of each mask
    if (data > 63).any() or (data[ends - 1] >= 32).any() or not numbers.all():
        raise ValueError("a mask is no complete COCO run-length code")
    values = _undo_differences(_numbers(data, stops), numbers)
    borders = _cumsum(values, numbers)
    last = np.cumsum(numbers) - 1
    bad = np.flatnonzero(borders[last] != size[0] * size[1])
    if len(bad) or (values < 0).any():
        mask = int(bad[0]) if len(bad) else int(np.searchsorted(last, np.argmax(values < 0)))
        raise ValueError(
            f"mask {mask} has {borders[last][mask]} pixels in all, expected {size[0]} x {size[1]}"
        )
    inside = np.flatnonzero(_places(numbers) % 2)
    offsets = np.concatenate([[0], np.cumsum(numbers // 2)])
    return Runs(borders[inside - 1], borders[inside], offsets)


def count_overlaps(runs: Runs, label: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Return how many pixels of each label lie in each mask, int64 (L, K), from sums of prefixes.

    label: integer (H, W) of the masks' size. ids: the K labels to count. The label is read as runs,
    too, so that what is paid for a class are its runs and not its pixels.

    Source: wsss.md, Sec. 5.4.
    """
    flat = label.ravel(order="F")
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    inside = flat[starts] == np.asarray(ids).reshape(-1, 1)  # (K, runs of the label)
    ends = np.cumsum(inside * np.diff(starts, append=flat.size), axis=1, dtype=np.int64)

    def before(pixel: np.ndarray) -> np.ndarray:
        """Pixels of each label before these ones, int64 (K, R)."""
        run = np.searchsorted(starts, pixel, side="right") - 1
        left = np.append(starts, flat.size)[run + 1] - pixel  # of this run, from here on
        return ends[:, run] - inside[:, run] * left

    return runs.total(before(runs.stop) - before(runs.start)).T


def count_dense(masks: np.ndarray, label: np.ndarray, ids: Sequence[int]) -> np.ndarray:
    """Return what `count_overlaps` does, as one product of matrices.

    masks: bool (L, H, W). label: integer (H, W). Exact to 2**24 pixels.
    """
    rows = masks.reshape(len(masks), label.size).astype(np.float32)
    columns = label.reshape(-1, 1) == np.asarray(ids).reshape(1, -1)
    return (rows @ columns.astype(np.float32)).astype(np.int64)


def containment(masks: MaskSet) -> np.ndarray:
    """Return the share of each mask (row) that lies in each mask (column), float64 (L, L)."""
    codes = [{"counts": code, "size": list(masks.size)} for code in masks.counts]
    if not codes:
        return np.zeros((0, 0))
    # Of "crowd" masks pycocotools divides by the area of the first one instead of the union.
    return np.asarray(coco_mask.iou(codes, codes, [1] * len(codes)))


def _numbers(data: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """Put the characters of each number together, int64; ``stops`` are their last ones."""
    starts = np.concatenate([[0], stops[:-1] + 1])
    width = stops - starts + 1
    values = (data[starts] & 31).astype(np.int64)
    for place in range(1, int(width.max())):
        longer = np.flatnonzero(width > place)
        values[longer] |= (data[starts[longer] + place] & 31).astype(np.int64) << (5 * place)
    negative = np.flatnonzero(data[stops] & 16)
    values[negative] -= np.int64(1) << (5 * width[negative])
    return values


def _undo_differences(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Add up every second number of each mask; the first stands alone."""
    place = _places(numbers)
    first, result = place == 0, np.where(place == 0, 0, values)
    for odd in (0, 1):
        chosen = np.flatnonzero(place % 2 == odd)
        result[chosen] = _cumsum(result[chosen], (numbers + 1 - odd) // 2)
    result[first] = values[first]
    return result


def _cumsum(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Running sums that start anew at each segment."""
    ends = np.concatenate([[0], np.cumsum(values)])
    return ends[1:] - np.repeat(ends[np.cumsum(lengths) - lengths], lengths)


def _places(lengths: np.ndarray) -> np.ndarray:
    """0, 1, … anew for each segment."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
