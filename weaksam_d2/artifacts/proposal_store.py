"""Proposals of a data set: boxes, and optionally scores, stability, sources and masks."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from weaksam_d2.artifacts.arrays import (
    ArrayFolder,
    ArrayFolderWriter,
    check_image_size,
    check_offsets,
)
from weaksam_d2.artifacts.io import Array, ArtifactError, ImageId
from weaksam_d2.artifacts.rows import RawRows, check_rising, open_npy

FORMAT = "weaksam_d2.proposals/1"

_OPTIONAL = {"scores": "f4", "stability": "f4", "sources": "u1"}


@dataclass(frozen=True, eq=False)
class Proposals:
    """Proposals of one image in rank order; ``masks`` are compressed COCO RLE counts.

    Shapes: boxes float32 (n, 4), XYXY in pixels of the original image; scores and stability
    float32 (n,), NaN where a source gave none; sources uint8 (n,), rows of ``source_names``.
    """

    boxes: Array
    image_size: tuple[int, int]
    scores: Array | None = None
    stability: Array | None = None
    sources: Array | None = None
    source_names: tuple[str, ...] = ()
    masks: tuple[bytes, ...] | None = None

    def __len__(self) -> int:
        return len(self.boxes)


def _bad_rows(boxes: Array, sizes: Array) -> npt.NDArray[np.bool_]:
    """Rows that are not finite, not inside (height, width) or have no area."""
    x1, y1, x2, y2 = boxes.T
    height, width = sizes.T
    # NaN compares false, so a NaN box is not good either.
    good = (x1 >= 0) & (x1 < x2) & (x2 <= width) & (y1 >= 0) & (y1 < y2) & (y2 <= height)
    bad: npt.NDArray[np.bool_] = ~good
    return bad


def _describe_box(image_id: ImageId, row: int, box: Array, size: Sequence[int]) -> str:
    return (
        f"box {row} of image {image_id!r} is {[float(v) for v in box]}, expected finite "
        f"0 <= x1 < x2 <= {size[1]} and 0 <= y1 < y2 <= {size[0]}"
    )


def checked_boxes(image_id: ImageId, boxes: npt.ArrayLike, size: tuple[int, int]) -> Array:
    """Boxes as float32 (n, 4), or a ValueError that names image, row and value."""
    array = np.asarray(boxes, dtype=np.float32)
    if array.size == 0 and array.shape in ((0,), (0, 4)):
        return array.reshape(0, 4)
    if array.ndim != 2 or array.shape[1] != 4:
        raise ValueError(f"boxes of image {image_id!r} must have shape (n, 4), got {array.shape}")
    bad = np.flatnonzero(_bad_rows(array, np.full((len(array), 2), size)))
    if len(bad):
        row = int(bad[0])
        more = f" ({len(bad)} such boxes)" if len(bad) > 1 else ""
        raise ValueError(
            f"{_describe_box(image_id, row, array[row], size)}{more}: clip to the image and drop "
            "empty boxes before storing"
        )
    return array


class ProposalStoreWriter(ArrayFolderWriter):
    """Write a `ProposalStore` image by image, in data set order (see `ArrayFolderWriter`)."""

    format_name = FORMAT

    def __init__(
        self, path: Path, *, source_names: Sequence[str] = (), overwrite: bool = False
    ) -> None:
        super().__init__(path, header={"source_names": list(source_names)}, overwrite=overwrite)
        self._source_count = len(source_names)
        self._has: frozenset[str] | None = None  # settled by the first image with boxes
        self._masks: BinaryIO | None = None
        self._mask_bytes = 0

    def add(
        self,
        image_id: ImageId,
        boxes: npt.ArrayLike,
        *,
        scores: npt.ArrayLike | None = None,
        stability: npt.ArrayLike | None = None,
        sources: npt.ArrayLike | None = None,
        masks: Sequence[bytes] | None = None,
        image_size: tuple[int, int],
    ) -> None:
        """Append one image; nothing is written if a value is refused.

        Boxes are (n, 4) XYXY in pixels, clipped, in rank order; n may be 0. The optional fields
        have n rows and are given for every image with boxes or for none.

        Raises:
            ValueError: a bad box (with image, row and value), length, source or repeated image.
        """
        self._check_new(image_id)
        size = check_image_size(image_id, image_size)
        array = checked_boxes(image_id, boxes, size)
        given = {"scores": scores, "stability": stability, "sources": sources}
        columns = self._checked_columns(image_id, len(array), given)
        checked_masks = _checked_masks(image_id, len(array), masks)
        has = frozenset([*columns, *(["masks"] if checked_masks is not None else [])])
        if len(array):
            self._check_has(image_id, has)
            for name, column in columns.items():
                self._array(name, _OPTIONAL[name]).append(column)
            if checked_masks is not None:
                self._append_masks(checked_masks)
        self._array("boxes", "f4", (4,)).append(array)
        self._array("offsets", "i8").append([self._array("boxes", "f4", (4,)).rows])
        self._array("sizes", "i4", (2,)).append([size])
        self._ids[image_id] = None

    def _start(self) -> None:
        self._array("boxes", "f4", (4,))
        self._array("offsets", "i8").append([0])
        self._array("sizes", "i4", (2,))

    def _finish(self) -> None:
        self._header["has"] = sorted(self._has or ())

    def _close(self) -> None:
        super()._close()
        if self._masks is not None:
            self._masks.close()

    def _checked_columns(
        self, image_id: ImageId, n: int, given: dict[str, Any]
    ) -> dict[str, Array]:
        columns = {}
        for name, values in given.items():
            if values is None:
                continue
            column = np.asarray(values)
            if column.shape != (n,):
                raise ValueError(
                    f"{name} of image {image_id!r} must have shape ({n},), one for each box, "
                    f"got {column.shape}"
                )
            if name == "sources" and n:
                worst = column.max() if column.min() >= 0 else column.min()
                if not 0 <= worst < self._source_count:
                    raise ValueError(
                        f"sources of image {image_id!r} hold {worst}, expected rows of "
                        f"source_names {self._header['source_names']}"
                    )
            columns[name] = column
        return columns

    def _check_has(self, image_id: ImageId, has: frozenset[str]) -> None:
        if self._has is None:
            self._has = has
        elif has != self._has:
            raise ValueError(
                f"image {image_id!r} has {sorted(has)}, the images before have "
                f"{sorted(self._has)}: give the same fields for every image with boxes"
            )

    def _append_masks(self, masks: Sequence[bytes]) -> None:
        if self._masks is None:
            self._masks = open(self._opened() / "masks.bin", "wb")  # noqa: SIM115
            self._array("mask_offsets", "i8").append([0])
        self._masks.write(b"".join(masks))
        ends = self._mask_bytes + np.cumsum([len(mask) for mask in masks], dtype=np.int64)
        self._array("mask_offsets", "i8").append(ends)
        self._mask_bytes = int(ends[-1])


def _checked_masks(
    image_id: ImageId, n: int, masks: Sequence[bytes] | None
) -> Sequence[bytes] | None:
    if masks is None:
        return None
    if len(masks) != n:
        raise ValueError(f"image {image_id!r} has {n} boxes but {len(masks)} masks")
    for row, mask in enumerate(masks):
        if not isinstance(mask, bytes) or not mask:
            raise ValueError(
                f"mask {row} of image {image_id!r} must be the compressed RLE counts as "
                f"non-empty bytes, got {mask!r:.60}"
            )
    return masks


class ProposalStore(ArrayFolder):
    """Proposals of a data set, read only, image by image.

    ``store[image_id]`` gives `Proposals` whose arrays are copies and may be changed. Opening costs
    O(images), and so does memory, whatever is read; the store pickles as its path, so every loader
    worker opens the files itself.
    """

    format_name = FORMAT

    def _map(self) -> None:
        index_path = self.path / "index.json"
        images = len(self.image_ids)
        self.source_names: tuple[str, ...] = tuple(self.index.get("source_names", ()))
        self.has: frozenset[str] = frozenset(self.index.get("has", ()))
        if unknown := self.has - {*_OPTIONAL, "masks"}:
            raise ArtifactError(f"{index_path} names unknown fields {sorted(unknown)}")
        self._boxes = self._rows_of("boxes", "f4", row_shape=(4,))
        rows = len(self._boxes)
        self._offsets = np.array(self._npy("offsets", "i8", images + 1))
        check_offsets(self.path / "offsets.npy", self._offsets, rows, "boxes.npy")
        self._sizes = np.array(self._npy("sizes", "i4", images, (2,)))
        self._columns = {
            name: self._rows_of(name, dtype, rows)
            for name, dtype in _OPTIONAL.items()
            if name in self.has
        }
        if "masks" in self.has:
            self._map_masks(rows)

    def _rows_of(
        self,
        name: str,
        dtype: npt.DTypeLike,
        rows: int | None = None,
        row_shape: tuple[int, ...] = (),
    ) -> RawRows:
        return open_npy(self.path / f"{name}.npy", dtype, rows, row_shape)

    def _map_masks(self, rows: int) -> None:
        path = self.path / "masks.bin"
        self._mask_offsets = self._rows_of("mask_offsets", "i8", rows + 1)
        length = path.stat().st_size if path.is_file() else -1
        last = int(self._mask_offsets[rows : rows + 1][0])
        if length != last:
            found = "is missing" if length < 0 else f"has {length} bytes"
            raise ArtifactError(
                f"{path} {found}, expected {last} bytes by mask_offsets.npy: write it again"
            )
        self._mask_data = RawRows(path, np.uint8, (length,))

    def __getitem__(self, image_id: ImageId) -> Proposals:
        return self.read(image_id)

    def read(self, image_id: ImageId, *, masks: bool = True) -> Proposals:
        """Proposals of one image, without their masks if ``masks`` is off.

        Raises:
            KeyError: the image is not in the store; names id and path.
        """
        image = self._row(image_id)
        start, stop = int(self._offsets[image]), int(self._offsets[image + 1])
        columns = {name: column[start:stop] for name, column in self._columns.items()}
        return Proposals(
            boxes=self._boxes[start:stop],
            image_size=self.image_size(image_id),
            source_names=self.source_names,
            masks=self._read_masks(start, stop) if masks and "masks" in self.has else None,
            **columns,
        )

    def image_size(self, image_id: ImageId) -> tuple[int, int]:
        """(height, width) of one image."""
        height, width = self._sizes[self._row(image_id)]
        return int(height), int(width)

    def counts(self) -> Array:
        """Proposals of each image, int64 (images,), in the order of ``image_ids``."""
        return np.diff(self._offsets)

    def check(self, *, limit: int = 100) -> list[str]:
        """Problems of every box, source and mask, each as a sentence; empty if all is well.

        At most ``limit`` are told, then how many are left.
        """
        problems: list[str] = []
        left = 0
        for start, boxes in self._boxes.blocks():
            rows = np.arange(start, start + len(boxes))
            images = np.searchsorted(self._offsets, rows, side="right") - 1
            sizes = self._sizes[images]
            bad = np.flatnonzero(_bad_rows(boxes, sizes))
            shown = bad[: max(limit - len(problems), 0)]
            left += len(bad) - len(shown)
            for row in shown:
                image = images[row]
                local = int(start + row - self._offsets[image])
                problems.append(_describe_box(self.image_ids[image], local, boxes[row], sizes[row]))
        problems += self._check_columns()
        return [*problems, *([f"and {left} more boxes like these"] if left else [])]

    def _check_columns(self) -> list[str]:
        problems = []
        sources = self._columns.get("sources")
        blocks = () if sources is None else sources.blocks()
        largest = max((int(part.max()) for _, part in blocks), default=-1)
        if largest >= len(self.source_names):
            problems.append(
                f"{self.path / 'sources.npy'} holds {largest}, expected rows of "
                f"source_names {list(self.source_names)}"
            )
        if "masks" in self.has:
            try:
                length = len(self._mask_data)
                path = self.path / "mask_offsets.npy"
                check_rising(path, self._mask_offsets, length, "masks.bin")
            except ArtifactError as error:
                problems.append(str(error))
        return problems

    def _read_masks(self, start: int, stop: int) -> tuple[bytes, ...]:
        ends = self._mask_offsets[start : stop + 1].tolist()
        data = self._mask_data[ends[0] : ends[-1]].tobytes() if ends[0] < ends[-1] else b""
        return tuple(
            data[a - ends[0] : b - ends[0]] for a, b in zip(ends[:-1], ends[1:], strict=True)
        )
