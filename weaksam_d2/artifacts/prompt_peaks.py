"""Peaks of attention maps before clustering: where the prompts of an image come from."""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from weaksam_d2.artifacts.io import Array

__all__ = [
    "PEAK_DTYPE",
    "checked_peaks",
    "join_peaks",
    "make_peaks",
    "peaks_of_image",
    "select_peaks",
]

PEAK_DTYPE = np.dtype(
    [
        ("image", "<i4"),  # row of image_ids; filled by the writer
        ("x", "<f4"),  # pixels of the original image
        ("y", "<f4"),
        ("score", "<f4"),  # value of the normalized map
        ("class", "<i4"),  # contiguous; -1: none
        ("head", "<i2"),  # from 0
        ("block", "<i2"),  # from 1
        ("prompt", "<i4"),  # row of the prompt: within the image in memory, of all prompts on disk
    ]
)


def make_peaks(
    xy: npt.ArrayLike,
    *,
    scores: npt.ArrayLike,
    classes: npt.ArrayLike,
    heads: npt.ArrayLike,
    blocks: npt.ArrayLike,
    prompts: npt.ArrayLike,
) -> Array:
    """Peaks of one image as a structured array (n,) of `PEAK_DTYPE`.

    xy: (n, 2) in pixels of the original image; prompts: the row of the prompt each belongs to.
    """
    points = np.asarray(xy, dtype=np.float32).reshape(-1, 2)
    peaks = np.zeros(len(points), PEAK_DTYPE)
    peaks["x"], peaks["y"] = points.T
    columns = {"score": scores, "class": classes, "head": heads, "block": blocks, "prompt": prompts}
    for name, values in columns.items():
        peaks[name] = values
    return peaks


def checked_peaks(peaks: npt.ArrayLike, num_prompts: int) -> Array:
    """The peaks, if they are of `PEAK_DTYPE` and belong to prompts; ValueError otherwise."""
    array = np.asarray(peaks)
    if array.dtype != PEAK_DTYPE or array.ndim != 1:
        raise ValueError(
            f"peaks must be an array (n,) of {PEAK_DTYPE.names}, got {array.dtype} of shape "
            f"{array.shape}"
        )
    rows = array["prompt"]
    if len(rows) and not 0 <= rows.min() <= rows.max() < num_prompts:
        raise ValueError(
            f"peaks belong to prompts {rows.min()} to {rows.max()}, expected rows of the "
            f"{num_prompts} prompts"
        )
    return array


def select_peaks(peaks: Array, rows: Array, num_prompts: int) -> Array:
    """The peaks of the prompts at ``rows``, as a copy; of a repeated prompt the first gets them."""
    place = np.full(num_prompts, -1)
    place[rows[::-1]] = np.arange(len(rows))[::-1]
    new = place[peaks["prompt"]]
    kept: Array = peaks[new >= 0].copy()
    kept["prompt"] = new[new >= 0]
    return kept


def join_peaks(parts: Sequence[Array | None], num_prompts: Sequence[int]) -> Array:
    """Join the peaks of parts (None: none) of so many prompts, which follow each other."""
    joined, before = [np.zeros(0, PEAK_DTYPE)], 0
    for part, count in zip(parts, num_prompts, strict=True):
        if part is not None:
            joined.append(part.copy())
            joined[-1]["prompt"] += before
        before += count
    return np.concatenate(joined)


def peaks_of_image(peaks: Array, image: int) -> Array:
    """Copy of the rows of one image out of all peaks, which are sorted by image; O(log n)."""
    images = peaks["image"]
    start = bisect_left(images, image)
    return np.array(peaks[start : bisect_left(images, image + 1, lo=start)])
