"""Prompts of a data set: points, joint points and boxes for a segment-anything model."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from weaksam_d2.artifacts.arrays import (
    ArrayFolder,
    ArrayFolderWriter,
    check_image_size,
    check_offsets,
)
from weaksam_d2.artifacts.io import Array, ArtifactError, ImageId
from weaksam_d2.artifacts.prompt_peaks import (
    PEAK_DTYPE,
    checked_peaks,
    join_peaks,
    peaks_of_image,
    select_peaks,
)
from weaksam_d2.artifacts.proposal_store import checked_boxes

FORMAT = "weaksam_d2.prompts/1"

_COLUMNS = {"scores": "f4", "classes": "i4", "sources": "u1", "heads": "i2", "blocks": "i2"}
_FILL_ROWS = 1 << 16  # rows of NaN written at a time


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts of one image; prompt p owns the points ``offsets[p]`` to ``offsets[p + 1]``.

    Shapes: points float32 (Q, 2), x and y in pixels of the original image; offsets int64 (P + 1,);
    scores float32 (P,); classes int32 (P,), -1 for none; sources uint8 (P,), rows of
    ``source_names``; heads and blocks int16 (P,), -1 if not applicable (heads from 0, blocks from
    1); boxes float32 (P, 4) XYXY or None, NaN in rows without one. Arrays are cast to these types.
    ``peaks``: the peaks that clustered prompts are made of, (n,) of ``PEAK_DTYPE``, or None.

    Raises:
        ValueError: lengths disagree, a source is not a row of ``source_names``, or a peak belongs
            to no prompt.
    """

    points: Array
    offsets: Array
    scores: Array
    classes: Array
    sources: Array
    source_names: tuple[str, ...]
    heads: Array | None = None
    blocks: Array | None = None
    boxes: Array | None = None
    peaks: Array | None = None

    def __post_init__(self) -> None:
        points = np.asarray(self.points, dtype=np.float32)
        self._set("points", points.reshape(0, 2) if points.size == 0 else points)
        self._set("offsets", np.asarray(self.offsets, dtype=np.int64))
        self._set("source_names", tuple(self.source_names))
        count = len(self.offsets) - 1
        for name, dtype in _COLUMNS.items():
            values = getattr(self, name)
            filled = np.full(count, -1, dtype) if values is None else np.asarray(values)
            if filled.shape != (count,):
                raise ValueError(f"{name} must have shape ({count},), got {filled.shape}")
            with np.errstate(invalid="ignore"):
                cast = filled.astype(dtype)
            if dtype != "f4" and (cast != filled).any():
                wrong = filled[cast != filled][0]
                raise ValueError(f"{name} hold {wrong}, which is no {np.dtype(dtype)}")
            self._set(name, cast)
        if self.boxes is not None:
            self._set("boxes", np.asarray(self.boxes, dtype=np.float32).reshape(-1, 4))
            if len(self.boxes) != count:
                raise ValueError(f"boxes must have shape ({count}, 4), got {self.boxes.shape}")
        if self.peaks is not None:
            self._set("peaks", checked_peaks(self.peaks, count))
        self._check()

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the dataclass is frozen

    def _check(self) -> None:
        points, offsets = self.points, self.offsets
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"points must have shape (Q, 2), got {points.shape}")
        if offsets.ndim != 1 or len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(points):
            raise ValueError(
                f"offsets must run from 0 to {len(points)}, the number of points, "
                f"got {offsets.tolist()[:8]}"
            )
        if (np.diff(offsets) < 0).any():
            raise ValueError(f"offsets must not fall, got {offsets.tolist()[:8]}")
        if len(self) and self.sources.max() >= len(self.source_names):
            raise ValueError(
                f"sources hold {self.sources.max()}, expected rows of {self.source_names}"
            )

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def select(self, index: npt.ArrayLike) -> "Prompts":
        """The prompts at ``index`` (integers or a boolean mask), in that order, as copies."""
        rows = np.arange(len(self))[np.asarray(index)] if len(self) else np.zeros(0, np.int64)
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        # Point i of the result is at its prompt's old start plus its place within the prompt.
        points = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Prompts(
            points=self.points[points],
            offsets=offsets,
            source_names=self.source_names,
            boxes=None if self.boxes is None else self.boxes[rows],
            peaks=None if self.peaks is None else select_peaks(self.peaks, rows, len(self)),
            **{name: getattr(self, name)[rows] for name in _COLUMNS},
        )

    @classmethod
    def concatenate(cls, parts: Sequence["Prompts"]) -> "Prompts":
        """Join prompts of one image; rows without a box get NaN if another part has boxes.

        Peaks of the parts that have some are joined, and follow their prompts.

        Raises:
            ValueError: no parts, or their ``source_names`` differ.
        """
        if not parts:
            raise ValueError("cannot join an empty list of prompts: their sources are unknown")
        names = parts[0].source_names
        for part in parts[1:]:
            if part.source_names != names:
                raise ValueError(f"source_names differ: {names} and {part.source_names}")
        starts = np.cumsum([0, *(len(part.points) for part in parts)])
        boxes = None
        if any(part.boxes is not None for part in parts):
            boxes = np.concatenate([part.filled_boxes() for part in parts])
        ends = [part.offsets[1:] + start for part, start in zip(parts, starts[:-1], strict=True)]
        peaks = None
        if any(part.peaks is not None for part in parts):
            peaks = join_peaks([part.peaks for part in parts], [len(part) for part in parts])
        return cls(
            points=np.concatenate([part.points for part in parts]),
            offsets=np.concatenate([[0], *ends]),
            source_names=names,
            boxes=boxes,
            peaks=peaks,
            **{name: np.concatenate([getattr(p, name) for p in parts]) for name in _COLUMNS},
        )

    @classmethod
    def single_points(
        cls,
        points: npt.ArrayLike,
        *,
        scores: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
        source: str,
        source_names: Sequence[str],
    ) -> "Prompts":
        """One prompt for each of (n, 2) points; scores default to 1, classes to -1.

        Raises:
            ValueError: ``source`` is not one of ``source_names``.
        """
        if source not in source_names:
            raise ValueError(f"source {source!r} is not one of {tuple(source_names)}")
        count = len(np.asarray(points))
        return cls(
            points=np.asarray(points, dtype=np.float32),
            offsets=np.arange(count + 1),
            scores=np.ones(count) if scores is None else np.asarray(scores),
            classes=np.full(count, -1) if classes is None else np.asarray(classes),
            sources=np.full(count, list(source_names).index(source)),
            source_names=tuple(source_names),
        )

    def filled_boxes(self) -> Array:
        """Boxes float32 (P, 4), NaN in rows without one, also if there are none at all."""
        if self.boxes is None:
            return np.full((len(self), 4), np.nan, dtype=np.float32)
        return self.boxes


class PromptSetWriter(ArrayFolderWriter):
    """Write a `PromptSet` image by image, in data set order (see `ArrayFolderWriter`).

    ``grid`` holds the parameters of the dense grid, for example ``{"points_per_side": 32}``, or
    None: its points are not stored. ``class_names`` is what the classes refer to.
    """

    format_name = FORMAT

    def __init__(
        self,
        path: Path,
        *,
        source_names: Sequence[str],
        grid: dict[str, Any] | None,
        class_names: Sequence[str] = (),
        overwrite: bool = False,
    ) -> None:
        header = {
            "source_names": list(source_names),
            "grid": grid,
            "class_names": list(class_names),
        }
        super().__init__(path, header=header, overwrite=overwrite)
        self._has_boxes = self._has_peaks = False

    def add(self, image_id: ImageId, prompts: Prompts, image_size: tuple[int, int]) -> None:
        """Append the prompts of one image of (height, width); nothing is written if refused.

        Raises:
            ValueError: a point or box outside the image or not finite, a prompt with neither, a
                wrong class, or other ``source_names``; names image, row and value.
        """
        self._check_new(image_id)
        size = check_image_size(image_id, image_size)
        self._check(image_id, prompts, size)
        points, before = self._array("points", "f4", (2,)), self._array("scores", "f4").rows
        ends = self._array("prompt_offsets", "i8")
        ends.append(prompts.offsets[1:] + points.rows)
        points.append(prompts.points)
        for name, dtype in _COLUMNS.items():
            self._array(name, dtype).append(getattr(prompts, name))
        self._append_boxes(prompts, before)
        self._append_peaks(prompts, before)
        self._array("offsets", "i8").append([before + len(prompts)])
        self._array("sizes", "i4", (2,)).append([size])
        self._ids[image_id] = None

    def _start(self) -> None:
        self._array("points", "f4", (2,))
        self._array("prompt_offsets", "i8").append([0])
        self._array("offsets", "i8").append([0])
        self._array("sizes", "i4", (2,))
        for name, dtype in _COLUMNS.items():
            self._array(name, dtype)

    def _finish(self) -> None:
        has = {"boxes": self._has_boxes, "peaks": self._has_peaks}
        self._header["has"] = [name for name, there in has.items() if there]

    def _append_boxes(self, prompts: Prompts, before: int) -> None:
        """The file starts with the first box; the rows before it are filled with NaN then."""
        boxes = prompts.filled_boxes()
        if not self._has_boxes:
            if not np.isfinite(boxes).any():
                return
            self._has_boxes = True
            for start in range(0, before, _FILL_ROWS):
                rows = min(_FILL_ROWS, before - start)
                self._array("boxes", "f4", (4,)).append(np.full((rows, 4), np.nan))
        # One NaN for all, whatever its sign was: equal prompts give equal bytes.
        self._array("boxes", "f4", (4,)).append(np.where(np.isnan(boxes), np.nan, boxes))

    def _append_peaks(self, prompts: Prompts, before: int) -> None:
        if prompts.peaks is None or not len(prompts.peaks):
            return
        self._has_peaks = True
        peaks = prompts.peaks.copy()
        peaks["image"] = len(self._ids)
        peaks["prompt"] += before
        self._array("peaks", PEAK_DTYPE).append(peaks)

    def _check(self, image_id: ImageId, prompts: Prompts, size: tuple[int, int]) -> None:
        names = tuple(self._header["source_names"])
        if prompts.source_names != names:
            raise ValueError(
                f"prompts of image {image_id!r} have source_names {prompts.source_names}, "
                f"expected {names}"
            )
        _check_points(image_id, "point", prompts.points[:, 0], prompts.points[:, 1], size)
        if prompts.peaks is not None:
            _check_points(image_id, "peak", prompts.peaks["x"], prompts.peaks["y"], size)
        if not np.isfinite(prompts.scores).all():
            row = int(np.flatnonzero(~np.isfinite(prompts.scores))[0])
            raise ValueError(f"score {row} of image {image_id!r} is {prompts.scores[row]}")
        classes, count = prompts.classes, len(self._header["class_names"])
        if len(classes) and (classes.min() < -1 or (count and classes.max() >= count)):
            raise ValueError(
                f"classes of image {image_id!r} run from {classes.min()} to {classes.max()}, "
                f"expected -1 or contiguous classes below {count}"
            )
        self._check_boxes(image_id, prompts, size)

    def _check_boxes(self, image_id: ImageId, prompts: Prompts, size: tuple[int, int]) -> None:
        boxes = prompts.filled_boxes()
        without = np.asarray(np.isnan(boxes).all(axis=1))
        checked_boxes(image_id, np.where(without[:, None], (0, 0, 1, 1), boxes), size)
        empty = np.flatnonzero(without & (np.diff(prompts.offsets) == 0))
        if len(empty):
            raise ValueError(f"prompt {empty[0]} of image {image_id!r} has neither point nor box")


def _check_points(image_id: ImageId, what: str, x: Array, y: Array, size: tuple[int, int]) -> None:
    bad = np.flatnonzero(~((x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])))
    if len(bad):
        row = int(bad[0])
        raise ValueError(
            f"{what} {row} of image {image_id!r} is {[float(x[row]), float(y[row])]}, expected "
            f"finite 0 <= x < {size[1]} and 0 <= y < {size[0]}"
        )


class PromptSet(ArrayFolder):
    """Prompts of a data set, read only and mapped; ``prompt_set[image_id]`` gives `Prompts`.

    Opening costs O(images). The set pickles as its path.
    """

    format_name = FORMAT

    def _map(self) -> None:
        images = len(self.image_ids)
        self.source_names: tuple[str, ...] = tuple(self.index.get("source_names", ()))
        self.class_names: list[str] = list(self.index.get("class_names", ()))
        self.grid: dict[str, Any] | None = self.index.get("grid")
        self._offsets = np.array(self._npy("offsets", "i8", images + 1))
        self._columns = {name: self._npy(name, dtype) for name, dtype in _COLUMNS.items()}
        rows = len(self._columns["scores"])
        check_offsets(self.path / "offsets.npy", self._offsets, rows, "scores.npy")
        for name, dtype in _COLUMNS.items():
            self._npy(name, dtype, rows)
        self._prompt_offsets = self._npy("prompt_offsets", "i8", rows + 1)
        self._points = self._npy("points", "f4", row_shape=(2,))
        ends = self._prompt_offsets[[0, -1]]  # O(1); `__getitem__` checks those of its image
        if ends[0] != 0 or ends[1] != len(self._points):
            raise ArtifactError(
                f"{self.path / 'prompt_offsets.npy'} runs from {ends[0]} to {ends[1]}, expected 0 "
                f"to {len(self._points)}, the rows of points.npy: write the artifact again"
            )
        self._sizes = np.array(self._npy("sizes", "i4", images, (2,)))
        has_boxes = "boxes" in self.index.get("has", ())
        self._boxes = self._npy("boxes", "f4", rows, (4,)) if has_boxes else None
        has_peaks = "peaks" in self.index.get("has", ())
        self._peaks = self._npy("peaks", PEAK_DTYPE) if has_peaks else None

    def __getitem__(self, image_id: ImageId) -> Prompts:
        image = self._row(image_id)
        start, stop = int(self._offsets[image]), int(self._offsets[image + 1])
        ends = np.array(self._prompt_offsets[start : stop + 1])
        try:
            return Prompts(
                points=np.array(self._points[ends[0] : ends[-1]]),
                offsets=ends - ends[0],
                source_names=self.source_names,
                boxes=None if self._boxes is None else np.array(self._boxes[start:stop]),
                peaks=self.peaks(image_id),
                **{name: np.array(values[start:stop]) for name, values in self._columns.items()},
            )
        except ValueError as error:
            raise ArtifactError(f"prompts of image {image_id!r} in {self.path}: {error}") from error

    def peaks(self, image_id: ImageId) -> Array | None:
        """The peaks before clustering, (n,) of ``PEAK_DTYPE``, or None if none are stored.

        ``prompt`` is the row of the image's prompts that a peak was assigned to.
        """
        image = self._row(image_id)
        if self._peaks is None:
            return None
        peaks = peaks_of_image(self._peaks, image)
        if (peaks["image"] != image).any():
            raise ArtifactError(
                f"{self.path / 'peaks.npy'} is not sorted by image (seen at image {image_id!r}): "
                "the artifact is inconsistent, write it again"
            )
        peaks["prompt"] -= int(self._offsets[image])
        return peaks

    def image_size(self, image_id: ImageId) -> tuple[int, int]:
        """(height, width) of one image."""
        height, width = self._sizes[self._row(image_id)]
        return int(height), int(width)
