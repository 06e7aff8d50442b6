"""Activation maps of a data set, at map resolution and not normalized."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts.arrays import (
    INDEX_NAME,
    ArrayFolder,
    ArrayFolderWriter,
    check_image_size,
    check_offsets,
)
from weaksam_d2.artifacts.io import Array, ArtifactError, ImageId

FORMAT = "weaksam_d2.cams/1"
GATES = ("gt", "pred")  # which classes have maps: those of the tags, or the predicted ones
CROSS_ROWS = ("class", "image")
NORMALIZATIONS = ("minmax", "max", "none")

_KINDS = ("coarse", "fine", "cross")


@dataclass(frozen=True, eq=False)
class CamMaps:
    """Activation maps of one image: one entry for each scale, at map resolution, unnormalized.

    Shapes: classes int64 (m,), contiguous and rising; coarse and fine float32 (m, h, w) for each
    scale; cross (m, heads, blocks, h, w), or one row for the image. ``image_size`` is (height,
    width); ``gate`` tells whether the classes are the image's tags ("gt") or predicted ("pred");
    ``blocks`` are the numbers, from 1, of the blocks of ``cross`` (empty: 1, 2, …), and
    ``cross_rows`` tells whether a row of ``cross`` belongs to a "class" or to the "image".
    """

    image_size: tuple[int, int]
    classes: Array
    coarse: tuple[Array, ...]
    fine: tuple[Array, ...] | None = None
    cross: tuple[Array, ...] | None = None
    gate: str = "gt"
    blocks: tuple[int, ...] = ()
    cross_rows: str = "class"


class CamStoreWriter(ArrayFolderWriter):
    """Write a `CamStore` image by image, in data set order (see `ArrayFolderWriter`).

    ``network`` names the registered network, or the layout of imported files; ``scales`` are
    factors of the image size, and ``normalize`` ("minmax", "max", or "none" for maps of one scale
    that are normalized already) is how a reader should normalize. With cross-attention,
    ``heads`` counts heads, ``blocks`` lists blocks from 1, and ``cross_rows`` says whether a row
    belongs to a "class" or to the "image". Maps are stored as float16.
    """

    format_name = FORMAT

    def __init__(
        self,
        path: Path,
        *,
        class_names: Sequence[str],
        network: str,
        scales: Sequence[float],
        normalize: str = "minmax",
        heads: int = 0,
        blocks: Sequence[int] = (),
        cross_rows: str = "class",
        overwrite: bool = False,
    ) -> None:
        if not scales:
            raise ValueError("scales must name at least one factor, got none")
        if normalize not in NORMALIZATIONS:
            raise ValueError(f"normalize must be one of {NORMALIZATIONS}, got {normalize!r}")
        if normalize == "none" and len(scales) > 1:
            raise ValueError(
                f"the maps of {len(scales)} scales are added when they are read and cannot be "
                "normalized before: normalize must be 'minmax' or 'max'"
            )
        if cross_rows not in CROSS_ROWS:
            raise ValueError(f"cross_rows must be one of {CROSS_ROWS}, got {cross_rows!r}")
        header = {
            "class_names": list(class_names),
            "network": network,
            "scales": [float(scale) for scale in scales],
            "normalize": normalize,
            "heads": int(heads),
            "blocks": [int(block) for block in blocks],
            "cross_rows": cross_rows,
            "gates": list(GATES),
        }
        super().__init__(path, header=header, overwrite=overwrite)
        self._has: frozenset[str] | None = None  # settled by the first image with a class
        self._ends: dict[str, list[int]] = {kind: [0] for kind in _KINDS}

    def add(self, image_id: ImageId, maps: CamMaps) -> None:
        """Append one image; nothing is written if a value is refused.

        Raises:
            ValueError: a wrong shape, a class out of range, a value that float16 cannot hold, or
                an image added twice; names the image.
        """
        self._check_new(image_id)
        size = check_image_size(image_id, maps.image_size)
        classes = self._checked_classes(image_id, maps.classes)
        if maps.gate not in GATES:
            raise ValueError(f"gate of image {image_id!r} must be one of {GATES}: {maps.gate!r}")
        if maps.blocks and list(maps.blocks) != self._header["blocks"]:
            raise ValueError(
                f"cross maps of image {image_id!r} are of blocks {list(maps.blocks)}, expected "
                f"those of the store: {self._header['blocks']}"
            )
        checked = {"coarse": self._checked_maps(image_id, "coarse", maps.coarse, len(classes))}
        sides = [values.shape[-2:] for values in checked["coarse"]]
        for kind, given in (("fine", maps.fine), ("cross", maps.cross)):
            if given is not None:
                checked[kind] = self._checked_maps(image_id, kind, given, len(classes), sides)
        if len(classes):
            self._check_has(image_id, frozenset(checked) - {"coarse"})
        for kind in _KINDS:
            # Attention of an image without classes is of no use to anyone: not stored.
            self._append_maps(kind, checked.get(kind) if len(classes) else None)
        self._array("classes", "i4").append(classes)
        self._array("offsets", "i8").append([self._array("classes", "i4").rows])
        self._array("sizes", "i4", (2,)).append([size])
        self._array("map_sizes", "i4", (len(sides), 2)).append([sides])
        self._array("gates", "u1").append([GATES.index(maps.gate)])
        self._ids[image_id] = None

    def _start(self) -> None:
        self._array("offsets", "i8").append([0])
        self._array("classes", "i4")
        self._array("sizes", "i4", (2,))
        self._array("map_sizes", "i4", (len(self._header["scales"]), 2))
        self._array("gates", "u1")
        self._array("coarse", "f2")

    def _finish(self) -> None:
        has = sorted(self._has or ())
        self._header["has"] = has
        for kind in ("coarse", *has):
            self._array(f"{kind}_offsets", "i8").append(self._ends[kind])

    def _append_maps(self, kind: str, maps: Sequence[Array] | None) -> None:
        ends = self._ends[kind]
        for scale in range(len(self._header["scales"])):
            length = 0
            if maps is not None and maps[scale].size:
                length = maps[scale].size
                self._array(kind, "f2").append(maps[scale].reshape(-1))
            ends.append(ends[-1] + length)

    def _checked_classes(self, image_id: ImageId, classes: Array) -> Array:
        array = np.asarray(classes, dtype=np.int64)
        count = len(self._header["class_names"])
        inside = array.ndim == 1 and bool(((array >= 0) & (array < count)).all())
        if not inside or (np.diff(array) <= 0).any():
            raise ValueError(
                f"classes of image {image_id!r} must be rising and in [0, {count}), "
                f"got {array.tolist()}"
            )
        return array

    def _checked_maps(
        self,
        image_id: ImageId,
        kind: str,
        maps: Sequence[Array],
        m: int,
        sides: Sequence[tuple[int, ...]] | None = None,
    ) -> list[Array]:
        """One float16 array for each scale, of the expected shape and finite."""
        scales, checked = self._header["scales"], []
        if len(maps) != len(scales):
            raise ValueError(
                f"{kind} maps of image {image_id!r}: got {len(maps)}, one for each scale {scales}"
            )
        for scale, values in enumerate(maps):
            array = np.asarray(values)
            want: tuple[Any, ...] = (m, *(sides[scale] if sides else array.shape[-2:]))
            if kind == "cross":
                rows = 1 if self._header["cross_rows"] == "image" and array.size else m
                heads, blocks = self._header["heads"], len(self._header["blocks"])
                want = (rows, heads, blocks, *want[1:])
            if array.shape != want or 0 in array.shape[-2:]:
                raise ValueError(
                    f"{kind} map of image {image_id!r} at scale {scales[scale]} must have shape "
                    f"{want if len(want) > 2 else '(m, h, w)'}, got {array.shape}"
                )
            with np.errstate(over="ignore"):  # told below
                half = array.astype(np.float16)
            if not np.isfinite(half).all():
                worst = array[~np.isfinite(half)][0]
                raise ValueError(
                    f"{kind} map of image {image_id!r} at scale {scales[scale]} holds {worst}, "
                    "expected finite values up to 65504 (stored as float16): scale the maps"
                )
            checked.append(half)
        return checked

    def _check_has(self, image_id: ImageId, has: frozenset[str]) -> None:
        if self._has is None:
            self._has = has
        elif has != self._has:
            raise ValueError(
                f"image {image_id!r} has maps {sorted(has)} beside coarse, the images before have "
                f"{sorted(self._has)}: give the same kinds for every image with classes"
            )


class CamStore(ArrayFolder):
    """Activation maps of a data set, read only and mapped; ``store[image_id]`` gives `CamMaps`.

    Opening costs O(images x scales). The store pickles as its path.
    """

    format_name = FORMAT

    def _map(self) -> None:
        images = len(self.image_ids)
        try:
            self.class_names: list[str] = list(self.index["class_names"])
            self.scales: tuple[float, ...] = tuple(self.index["scales"])
            self.blocks: tuple[int, ...] = tuple(int(block) for block in self.index["blocks"])
            self._cross_shape = (int(self.index["heads"]), len(self.blocks))
            self._gate_names = list(self.index["gates"])
            self._has = frozenset(self.index["has"])
        except KeyError as error:
            raise ArtifactError(f"{self.path / INDEX_NAME} lacks {error}") from error
        self._classes = self._npy("classes", "i4")
        self._offsets = np.array(self._npy("offsets", "i8", images + 1))
        rows = len(self._classes)
        check_offsets(self.path / "offsets.npy", self._offsets, rows, "classes.npy")
        self._sizes = np.array(self._npy("sizes", "i4", images, (2,)))
        self._map_sizes = np.array(self._npy("map_sizes", "i4", images, (len(self.scales), 2)))
        self._gates = np.array(self._npy("gates", "u1", images))
        if images and self._gates.max() >= len(self._gate_names):
            raise ArtifactError(f"{self.path / 'gates.npy'} holds {self._gates.max()}")
        self._maps: dict[str, Array] = {}
        self._map_offsets: dict[str, Array] = {}
        for kind in _KINDS:
            if kind == "coarse" or kind in self._has:
                self._map_kind(kind)

    def _map_kind(self, kind: str) -> None:
        """Map one kind and check that each image has the rows that its classes ask for."""
        values = self._npy(kind, "f2")
        path = self.path / f"{kind}_offsets.npy"
        pairs = len(self.image_ids) * len(self.scales)
        offsets = np.array(self._npy(f"{kind}_offsets", "i8", pairs + 1))
        check_offsets(path, offsets, len(values), f"{kind}.npy")
        classes = np.diff(self._offsets)
        rows = np.minimum(classes, 1) if self._one_row(kind) else classes
        area = self._map_sizes.astype(np.int64).prod(axis=2)
        lengths = np.diff(offsets).reshape(area.shape)
        expected = rows[:, None] * area * self._planes(kind)
        if (wrong := lengths != expected).any():
            image, scale = (int(i) for i in np.argwhere(wrong)[0])
            raise ArtifactError(
                f"{path} gives image {self.image_ids[image]!r}, scale {self.scales[scale]}, "
                f"{lengths[image, scale]} values, expected {expected[image, scale]} by classes "
                "and map_sizes.npy: the artifact is inconsistent, write it again"
            )
        self._maps[kind], self._map_offsets[kind] = values, offsets

    def _one_row(self, kind: str) -> bool:
        return kind == "cross" and self.index.get("cross_rows") == "image"

    def _planes(self, kind: str) -> int:
        return self._cross_shape[0] * self._cross_shape[1] if kind == "cross" else 1

    def __getitem__(self, image_id: ImageId) -> CamMaps:
        image = self._row(image_id)
        start, stop = int(self._offsets[image]), int(self._offsets[image + 1])
        height, width = self._sizes[image]
        return CamMaps(
            image_size=(int(height), int(width)),
            classes=self._classes[start:stop].astype(np.int64),
            coarse=self._read("coarse", image),
            fine=self._read("fine", image) if "fine" in self._has else None,
            cross=self._read("cross", image) if "cross" in self._has else None,
            gate=str(self._gate_names[self._gates[image]]),
            blocks=self.blocks,
            cross_rows=str(self.index.get("cross_rows", "class")),
        )

    def image_size(self, image_id: ImageId) -> tuple[int, int]:
        """(height, width) of one image."""
        height, width = self._sizes[self._row(image_id)]
        return int(height), int(width)

    def _read(self, kind: str, image: int) -> tuple[Array, ...]:
        maps = []
        inner = self._cross_shape if kind == "cross" else ()
        m = int(self._offsets[image + 1] - self._offsets[image])
        for scale in range(len(self.scales)):
            pair = image * len(self.scales) + scale
            start, stop = (int(end) for end in self._map_offsets[kind][pair : pair + 2])
            h, w = (int(side) for side in self._map_sizes[image, scale])
            rows = min(m, 1) if self._one_row(kind) else m
            values = np.array(self._maps[kind][start:stop], dtype=np.float32)
            maps.append(values.reshape(rows, *inner, h, w))
        return tuple(maps)
