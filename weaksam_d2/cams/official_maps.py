"""Activation map files of official codes as a store of a data set."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from weaksam_d2.artifacts import CamMaps, CamStoreWriter, ForeignFileError, LabelSpace

from .official_files import FoundFiles, OfficialMaps, find_files, read_official_maps

__all__ = ["ImportedCams", "OfficialCams", "find_official_files", "import_official_cams"]

logger = logging.getLogger(__name__)

_EXAMPLES = 3
_TOLERANCE = 1e-3  # of values in [0, 1]: float16 and interpolation round


@dataclass(frozen=True)
class OfficialCams:
    """How the files of an official code are read.

    layout: one of `OFFICIAL_LAYOUTS`. channels: one of `artifacts.CHANNEL_ENCODINGS`, what its
    class numbers are. gate "gt": its classes must be the image's tags; "pred": they are predicted
    ones, and tags are not read. normalize: what a reader of the store does; "none": nothing, values
    are in [0, 1]. stride: maps of image size are reduced by it; 1: not at all. missing: images
    without a file are an "error", or have no maps ("empty").
    """

    layout: str
    channels: str = "contiguous"
    gate: str = "gt"
    normalize: str = "none"
    stride: int = 1
    missing: str = "error"

    def __post_init__(self) -> None:
        if self.missing not in ("error", "empty"):
            raise ValueError(f"missing is {self.missing!r}, expected 'error' or 'empty'")
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")


@dataclass
class ImportedCams:
    """What was written: images and maps, and of how many images something was otherwise.

    ``missing_images`` have no file, ``reduced_images`` maps of another size than the image's in
    their file, and ``untold_images`` tags without a map.
    """

    images: int = 0
    maps: int = 0
    missing_images: int = 0
    reduced_images: int = 0
    untold_images: int = 0
    untold: list[str] = field(default_factory=list, repr=False)

    def counts(self) -> dict[str, int]:
        """The numbers, as JSON values that the parts of an artifact add up."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "untold"}


def find_official_files(
    folder: Path, records: Iterable[Mapping[str, Any]], settings: OfficialCams
) -> FoundFiles:
    """The files of all images of a data set; what is missing or superfluous is said.

    Raises:
        ForeignFileError: as `find_files`; missing files, unless they count as empty.
    """
    found = find_files(folder, records)
    if found.surplus:
        logger.warning(
            "%s has %d files that belong to no image of the data set, for example %s",
            *(folder, len(found.surplus), found.surplus[:_EXAMPLES]),
        )
    if found.missing:
        text = (
            f"{folder} has no file for {len(found.missing)} images, for example "
            f"{found.missing[:_EXAMPLES]}"
        )
        if settings.missing == "error":
            others = f"; its files of no image are {found.surplus[:_EXAMPLES]}"
            raise ForeignFileError(
                f"{text}{others if found.surplus else ''}. If these images have no maps, use "
                "--missing empty"
            )
        logger.warning("%s: they have no maps", text)
    return found


def import_official_cams(
    records: Iterable[Mapping[str, Any]],
    paths: Mapping[str, Path],
    settings: OfficialCams,
    *,
    space: LabelSpace,
    writer: CamStoreWriter,
    on_progress: Callable[[int], Any] | None = None,
) -> ImportedCams:
    """Write the maps of each record's file, in the order of the records.

    A map has the size of the image, or is the image reduced by one factor, up to rounding. An
    image without a file gets no maps. on_progress is called with 1 after each image.

    Raises:
        UnsafePickleError, ForeignFileError: as `read_official_maps`; a size that is not the
            image's; a class that is none of the data set's, or (gate "gt") of the image's tags;
            values outside [0, 1] that are to stay as they are. Names file and image.

    Source: wsss.md, Sec. 1.1.
    """
    summary = ImportedCams()
    for record in records:
        image_id = str(record["image_id"])
        size = (int(record["height"]), int(record["width"]))
        if image_id in paths:
            path = paths[image_id]
            maps = _converted(path, read_official_maps(path, settings.layout), space, settings)
            sides = maps.kinds[0].shape[1:]
            _check_size(path, image_id, sides, size)
            if settings.gate == "gt":
                _check_tags(path, record, maps.classes, space, summary)
            summary.reduced_images += int(len(maps.classes) > 0 and sides != size)
        else:
            maps = OfficialMaps(np.zeros(0, np.int64), (np.zeros((0, 1, 1), np.float32),))
            summary.missing_images += 1
        writer.add(image_id, _cam_maps(maps, size, settings))
        summary.images += 1
        summary.maps += len(maps.classes)
        if on_progress is not None:
            on_progress(1)
    if summary.untold:
        logger.warning(
            "%d images have tags without a map, for example %s",
            *(summary.untold_images, summary.untold[:_EXAMPLES]),
        )
    return summary


def _converted(
    path: Path, maps: OfficialMaps, space: LabelSpace, settings: OfficialCams
) -> OfficialMaps:
    """The same with contiguous classes; channels of no class are dropped with a warning."""
    try:
        labels = [space.from_channel(int(c), settings.channels) for c in maps.classes]
    except ValueError as error:
        raise ForeignFileError(f"{path}: {error}; say what its numbers are (--channels)") from error
    rows = [row for row, label in enumerate(labels) if label is not None]
    classes = np.array([label - 1 for label in labels if label is not None], np.int64)
    if settings.normalize == "none" and len(rows):
        for kind in maps.kinds:
            _check_range(path, kind[rows])
    return OfficialMaps(classes, maps.rows(rows).kinds).rows(np.argsort(classes))


def _check_range(path: Path, maps: np.ndarray) -> None:
    low, high = float(maps.min()), float(maps.max())
    if low < -_TOLERANCE or high > 1 + _TOLERANCE:
        raise ForeignFileError(
            f"{path} has values from {low:.4g} to {high:.4g}, expected maps that are normalized to "
            "[0, 1]; let readers do it with --normalize minmax or max"
        )


def _check_size(path: Path, image_id: str, found: tuple[int, ...], size: tuple[int, int]) -> None:
    """Refuse maps that are not an image of (height, width) reduced by one factor.

    A side of n pixels may come from any side that the factor makes to more than n - 1 and less
    than n + 1 pixels, since codes round up, down or to the nearest.
    """
    pairs = list(zip(size, found, strict=True))
    least = max(side / (n + 1) for side, n in pairs)
    most = min(side / (n - 1) if n > 1 else np.inf for side, n in pairs)
    if found != (1, 1) and (least >= most or any(n > side for side, n in pairs)):
        raise ForeignFileError(
            f"{path} has maps of {found[0]} x {found[1]} (height x width), image {image_id!r} is "
            f"{size[0]} x {size[1]}; expected this size, or the same shape reduced"
        )


def _check_tags(
    path: Path,
    record: Mapping[str, Any],
    classes: np.ndarray,
    space: LabelSpace,
    summary: ImportedCams,
) -> None:
    tags = {int(c) for c in record["image_labels"]}
    untagged = [int(c) for c in classes if int(c) not in tags]
    if untagged:
        named = [f"{c} ({space.classes[c + 1]})" for c in (*untagged[:1], *sorted(tags))]
        raise ForeignFileError(
            f"{path} has a map of class {named[0]}, image {record['image_id']!r} has the tags "
            f"{', '.join(named[1:]) or 'none'}: classes count from 0, without background; if they "
            "are predicted ones use --gate pred"
        )
    if tags - {int(c) for c in classes}:
        summary.untold_images += 1
        summary.untold += [str(record["image_id"])]


def _cam_maps(maps: OfficialMaps, size: tuple[int, int], settings: OfficialCams) -> CamMaps:
    coarse, *refined = (_reduced(kind, size, settings.stride) for kind in maps.kinds)
    fine = tuple(refined) or None
    return CamMaps(size, maps.classes, (coarse,), fine, gate=settings.gate)


def _reduced(maps: np.ndarray, size: tuple[int, int], stride: int) -> np.ndarray:
    if stride == 1 or not len(maps) or maps.shape[1:] != size:
        return maps
    target = [-(-side // stride) for side in size]
    values = torch.from_numpy(np.ascontiguousarray(maps, dtype=np.float32))[None]
    reduced = F.interpolate(values, target, mode="bilinear", antialias=True)[0]
    return reduced.numpy()
