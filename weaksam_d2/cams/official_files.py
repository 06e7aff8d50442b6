"""One activation map file of an official code: `<image>.npy` with a pickled dict, never run."""

from collections.abc import Iterable, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

import numpy as np

from weaksam_d2.artifacts import ForeignFileError, label_file_name, load_plain_npy
from weaksam_d2.artifacts.foreign_errors import shown

__all__ = ["OFFICIAL_LAYOUTS", "FoundFiles", "OfficialMaps", "find_files", "read_official_maps"]

# Names of the maps beside "keys", the best kind last; None: the dict itself is {class: map}.
OFFICIAL_LAYOUTS: dict[str, tuple[str, ...] | None] = {
    "clip_es": ("highres", "attn_highres"),
    "irn": ("high_res",),
    "class_maps": None,  # MCTformer, WeakTr, S2C
}


class OfficialMaps(NamedTuple):
    """Maps of one file: int64 (K,) class numbers of that code, rising; (K, h, w) of each kind.

    There is one kind, or two of one size: those before and those after a refinement.
    """

    classes: np.ndarray
    kinds: tuple[np.ndarray, ...]

    def rows(self, rows: Any) -> "OfficialMaps":
        """The maps of some rows, in their order."""
        return OfficialMaps(self.classes[rows], tuple(kind[rows] for kind in self.kinds))


class FoundFiles(NamedTuple):
    """The file of each image id, ids without one, and names of files that no image asks for."""

    paths: dict[str, Path]
    missing: list[str]
    surplus: list[str]


def find_files(folder: Path, records: Iterable[Mapping[str, Any]]) -> FoundFiles:
    """Match `<name>.npy` in a folder with images, by id or by file name without its ending.

    Raises:
        ForeignFileError: no folder with such files, an image with two files, or a file name that
            is that of two images.
    """
    files = {path.stem: path for path in sorted(Path(folder).glob("*.npy"))}
    if not files:
        raise ForeignFileError(f"{folder} is no folder with activation maps <image id>.npy")
    paths: dict[str, Path] = {}
    owners: dict[str, str] = {}
    missing = []
    for record in records:
        image_id = str(record["image_id"])
        safe = label_file_name(image_id).removesuffix(".png")
        stem = PurePath(str(record.get("file_name", ""))).stem
        names = [name for name in dict.fromkeys((image_id, safe, stem)) if name in files]
        if len(names) > 1:
            raise ForeignFileError(
                f"{folder} has two files for image {image_id!r}: {files[names[0]].name} by its id "
                f"and {files[names[1]].name} by its file name; remove the one that is not meant"
            )
        for name in names:
            if owners.setdefault(name, image_id) != image_id:
                raise ForeignFileError(
                    f"{files[name]} is the file of two images, {owners[name]!r} and {image_id!r}; "
                    "name the files by image id"
                )
            paths[image_id] = files[name]
        missing += [] if names else [image_id]
    surplus = sorted(files[name].name for name in files.keys() - owners.keys())
    return FoundFiles(paths, missing, surplus)


def read_official_maps(path: Path, layout: str) -> OfficialMaps:
    """Read a file of one of `OFFICIAL_LAYOUTS`; maps keep their type and size.

    "clip_es": {"keys": classes, "attn_highres": maps}, and maybe "highres", the maps before their
    refinement. "irn": {"keys", "high_res"}. "class_maps": {class: map}. Other entries, such as the
    reduced maps "cam" and "strided_cam", are not read.

    Raises:
        UnsafePickleError: the file asks for more than plain data, such as torch's tensors.
        ForeignFileError: it is damaged or of another layout, or its maps are not finite.
        ValueError: an unknown layout.

    Source: wsss.md, Sec. 1.1.
    """
    if layout not in OFFICIAL_LAYOUTS:
        raise ValueError(f"layout is {layout!r}, expected one of {list(OFFICIAL_LAYOUTS)}")
    content, names = load_plain_npy(path), OFFICIAL_LAYOUTS[layout]
    if names is None:
        classes, kinds = _class_maps(path, content)
    else:
        classes, kinds = _keyed_maps(path, content, names)
    found = OfficialMaps(classes, tuple(kinds)).rows(np.argsort(classes))
    twice = found.classes[1:][np.diff(found.classes) == 0]
    if len(twice):
        raise ForeignFileError(f"{path} has two maps of class {twice[0]}, expected one")
    if not all(np.isfinite(maps).all() for maps in kinds):
        raise ForeignFileError(f"{path} has a map with a value that is not finite")
    return found


def _class_maps(path: Path, content: dict[Any, Any]) -> tuple[np.ndarray, list[np.ndarray]]:
    for key, value in content.items():
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)):
            raise ForeignFileError(
                f"{path} has the key {shown(key)}, expected class numbers (layout 'class_maps')"
                + _other_layout(content)
            )
        _check_maps(path, f"the map of class {int(key)}", value, 2)
    classes = [int(key) for key in content]
    if any(abs(number) >= 1 << 31 for number in classes):
        raise ForeignFileError(f"{path} has a class number beyond 32 bits")
    shapes = {value.shape for value in content.values()}
    if len(shapes) > 1:
        raise ForeignFileError(f"{path} has maps of several sizes: {sorted(shapes)}")
    stacked = np.stack(list(content.values())) if content else np.zeros((0, 1, 1), np.float32)
    return np.array(classes, np.int64), [stacked]


def _keyed_maps(
    path: Path, content: dict[Any, Any], names: tuple[str, ...]
) -> tuple[np.ndarray, list[np.ndarray]]:
    found = [name for name in names if name in content]
    if "keys" not in content or not found:
        raise ForeignFileError(
            f"{path} has {', '.join(map(shown, list(content)[:10])) or 'nothing'}, expected 'keys' "
            f"and {' or '.join(map(repr, names))}" + _other_layout(content)
        )
    keys = content["keys"]
    if (
        not isinstance(keys, np.ndarray)
        or keys.ndim != 1
        or (keys.size and keys.dtype.kind not in "iu")
    ):
        raise ForeignFileError(f"{path}: 'keys' is {_described(keys)}, expected integers (K,)")
    kinds: list[np.ndarray] = []
    for name in found:
        maps = content[name]
        if isinstance(maps, np.ndarray) and not maps.size and not len(keys):
            maps = np.zeros((0, 1, 1), np.float32)
        _check_maps(path, repr(name), maps, 3)
        if len(maps) != len(keys) or maps.shape != (kinds or [maps])[0].shape:
            raise ForeignFileError(
                f"{path}: {name!r} has shape {maps.shape} for {len(keys)} keys, expected one map "
                "for each of one size; keys that count the background are not those of this layout"
            )
        kinds.append(maps)
    return keys.astype(np.int64), kinds


def _check_maps(path: Path, what: str, maps: Any, dimensions: int) -> None:
    fits = isinstance(maps, np.ndarray) and maps.ndim == dimensions and maps.dtype.kind == "f"
    if not fits or 0 in maps.shape[-2:]:
        sides = "(K, H, W)" if dimensions == 3 else "(H, W)"
        raise ForeignFileError(f"{path}: {what} is {_described(maps)}, expected floats {sides}")


def _described(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} of shape {value.shape}"
    return shown(value)


def _other_layout(content: dict[Any, Any]) -> str:
    """Which layout a dict is of, for a message."""
    for layout, names in OFFICIAL_LAYOUTS.items():
        keyed = "keys" in content and any(name in content for name in names or ())
        if keyed or (names is None and content and all(isinstance(key, int) for key in content)):
            return f"; it looks like layout {layout!r} (--from)"
    return ""
