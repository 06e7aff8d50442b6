"""What turns images into semantic pseudo labels, by name, and the loop over a data set."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from detectron2.utils.registry import Registry

from weaksam_d2.artifacts import ImageId, LabelSpace, SemSegLabelsWriter
from weaksam_d2.data.images import DamagedImageError

__all__ = [
    "LABEL_SOURCE_REGISTRY",
    "LabelResult",
    "LabelSource",
    "LabelsSummary",
    "generate_labels",
    "required_input",
]

logger = logging.getLogger(__name__)
Record = Mapping[str, Any]

LABEL_SOURCE_REGISTRY = Registry("LABEL_SOURCE")
LABEL_SOURCE_REGISTRY.__doc__ = """Makers of semantic pseudo labels (``WEAKSAM.LABELS.SOURCE``).

Called as ``obj(cfg, inputs, space)`` with the files or folders that the command line names
("input", "masks") and the :class:`LabelSpace` of the data set; the result is a
:class:`LabelSource`. A class says what a pipeline gives it as "input" in ``reads``: "cams",
"prompts", "labels" (those made before it, and SAM's masks as "masks") or "" (nothing). It may have
three attributes that enter the manifest: ``declared_keys``, config prefixes beside WEAKSAM.LABELS
that decide its result; ``neutral_keys``, keys below them that do not (paths, sizes of batches); and
``weight_files(cfg)``, a static method that gives (name, file) pairs of what it loads, which count
by their content.
"""


class LabelResult(NamedTuple):
    """Labels of one image: uint8 (H, W), and what went otherwise than usual.

    Flags in use: no_tags, no_masks, damaged, and with the label id of a class behind a colon
    class_empty, fallback, lost, untagged. ``tags`` are the contiguous classes that the labels may
    hold, where the source found them itself; None: those of the record.
    """

    label: np.ndarray
    flags: tuple[str, ...] = ()
    tags: tuple[int, ...] | None = None


class LabelSource(Protocol):
    """Labels of one data set record (file_name, image_id, height, width, image_labels).

    ``system`` names it in `labels.json`, ``base`` is "paper", "reference" or "custom", and
    ``supervision`` "image_labels", "none" or "given_boxes".
    """

    system: str
    base: str
    supervision: str

    def __call__(self, record: Record) -> LabelResult:
        """Label an image."""


@dataclass
class LabelsSummary:
    """What was written: images (kept ones of an earlier run among them), pixels and flags."""

    images: int = 0
    pixels: int = 0
    ignored: int = 0
    flags: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[ImageId, str]] = field(default_factory=list)

    def add(self, entry: Mapping[str, Any]) -> None:
        """Count an image by its entry of `labels.json`."""
        self.images += 1
        self.pixels += sum(entry["pixels"].values())
        self.ignored += int(entry["pixels"].get("255", 0))
        for kind in {flag.partition(":")[0] for flag in entry["flags"]}:
            self.flags[kind] = self.flags.get(kind, 0) + 1

    def counts(self) -> dict[str, Any]:
        """As JSON values; ``flagged_<flag>`` counts images, whatever the class behind the flag."""
        skipped = [{"image_id": image_id, "reason": reason} for image_id, reason in self.skipped]
        flagged = {f"flagged_{kind}": count for kind, count in sorted(self.flags.items())}
        totals = {"images": self.images, "pixels": self.pixels, "ignored_pixels": self.ignored}
        return {**totals, **flagged, "skipped": skipped}


def required_input(inputs: Mapping[str, Path], name: str, what: str) -> Path:
    """The file or folder that a command line names as ``--<name>``.

    Raises:
        ValueError: it names none; ``what`` says what is expected.
    """
    if name not in inputs:
        raise ValueError(f"--{name} is missing: give {what}")
    return inputs[name]


def generate_labels(
    records: Iterable[Record],
    source: LabelSource,
    *,
    writer: SemSegLabelsWriter,
    on_progress: Callable[[int], Any] | None = None,
) -> LabelsSummary:
    """Write the labels of each record; images that an interrupted run has left are kept.

    A damaged image gets ``ignore`` everywhere and the flag "damaged". on_progress is called with 1
    after each image.

    Raises:
        ValueError: labels of another size than the image, or of a class that is not in its tags.
    """
    summary = LabelsSummary()
    for record in records:
        image_id = str(record["image_id"])
        if not writer.keep(image_id):
            try:
                result = source(record)
            except DamagedImageError as error:
                logger.warning("image %s is not labeled: %s", image_id, error)
                size = (int(record["height"]), int(record["width"]))
                result = LabelResult(np.full(size, writer.space.ignore, np.uint8), ("damaged",))
                summary.skipped.append((image_id, str(error)))
            tags = _tags(record, result, source.supervision, writer.space)
            _check_result(record, result, tags, writer.space)
            writer.add(image_id, result.label, tags=tags, flags=result.flags)
        summary.add(writer.entry(image_id))
        if on_progress is not None:
            on_progress(1)
    return summary


def _present(label: np.ndarray, space: LabelSpace) -> list[int]:
    """Contiguous classes in a label map."""
    found = np.flatnonzero(np.bincount(label.ravel(), minlength=256)).tolist()
    return [value - 1 for value in found if value not in (0, space.ignore)]


def _tags(record: Record, result: LabelResult, supervision: str, space: LabelSpace) -> list[int]:
    if result.tags is not None:
        return sorted(set(result.tags))
    if supervision == "none":  # tags of the record were not used, so they are none of its facts
        return _present(result.label, space)
    return sorted({int(tag) for tag in record["image_labels"]})


def _check_result(record: Record, result: LabelResult, tags: list[int], space: LabelSpace) -> None:
    image_id, size = record["image_id"], (int(record["height"]), int(record["width"]))
    if result.label.shape != size:
        raise ValueError(
            f"label of image {image_id!r} is {result.label.shape}, its image is {size}: was the "
            "input made of other images?"
        )
    foreign = sorted(set(_present(result.label, space)) - set(tags))
    if foreign:
        raise ValueError(
            f"label of image {image_id!r} holds classes {foreign}, its tags are {tags}: labels "
            "may hold tagged classes only"
        )
