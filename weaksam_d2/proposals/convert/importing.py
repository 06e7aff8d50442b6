"""From a foreign file to a proposal store of a data set."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from weaksam_d2.artifacts import ForeignFileError, ProposalStoreWriter, RunManifest
from weaksam_d2.proposals.filter import clean_boxes

from .foreign import ForeignBoxes, ImageRecord, image_records
from .formats import get_reader

__all__ = ["ImportSummary", "import_proposals"]

logger = logging.getLogger(__name__)

_NOTHING = ForeignBoxes(np.zeros((0, 4), np.float32))
_EXAMPLES = 3
_TOLERANCE = 1.0  # pixels; programs disagree by one about where an image ends


@dataclass
class ImportSummary:
    """What an import found: images and boxes written, left out, missing, and not asked for."""

    images: int = 0
    proposals: int = 0
    dropped: int = 0
    misplaced: int = 0
    missing: list[str] = field(default_factory=list)
    surplus: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """As JSON values for a manifest; of the missing and surplus images a few are named."""
        named = {"missing": self.missing, "surplus": self.surplus}
        return {
            "images": self.images,
            "proposals": self.proposals,
            "dropped": self.dropped,
            **{f"{key}_images": len(ids) for key, ids in named.items()},
            **{f"{key}_examples": ids[:_EXAMPLES] for key, ids in named.items() if ids},
        }


def import_proposals(
    path: Path,
    format_name: str,
    records: Iterable[Mapping[str, Any]],
    output: Path,
    *,
    missing: str = "error",
    max_misplaced: float = 0.01,
    source: str | None = None,
    manifest: RunManifest | None = None,
    overwrite: bool = False,
    **options: Any,
) -> ImportSummary:
    """Write a foreign file's proposals of a data set, in its order, by falling score (stable).

    Boxes are clipped; those without area or with a number that is not finite are left out and
    counted. If more than ``max_misplaced`` of all boxes are so, or leave their image by more than
    a pixel, the file was read in the wrong format and nothing is published. ``missing`` images are
    an ``error`` or ``empty``; images of other data sets are listed and left out. ``source`` names
    the boxes' source in the store, where the file does not; ``options`` go to the reader. The
    manifest gets the counts.

    Raises:
        ForeignFileError, UnsafePickleError: the file is not what the format says; misplaced boxes;
            missing images.
        ValueError: an unknown format, option or value of ``missing``.
        FileExistsError: there is a store, and ``overwrite`` is off.

    Source: design.md, Sec. 6.2; weaksam.md, Sec. 0.
    """
    if missing not in ("error", "empty"):
        raise ValueError(f"missing is {missing!r}, expected 'error' or 'empty'")
    images = image_records(records)
    foreign = get_reader(format_name, options)(Path(path), images)
    known, own = set(foreign.image_ids), {image.image_id for image in images}
    summary = ImportSummary(
        missing=[image.image_id for image in images if image.image_id not in known],
        surplus=[image_id for image_id in foreign.image_ids if image_id not in own],
    )
    _check_missing(path, summary, len(images), missing)
    names = foreign.source_names or ((source,) if source else ())
    with ProposalStoreWriter(output, source_names=names, overwrite=overwrite) as writer:
        for image in images:
            item = foreign.read(image.image_id) if image.image_id in known else _NOTHING
            if item.sources is None and names:
                item = item._replace(sources=np.zeros(len(item.boxes), np.uint8))
            _add(path, writer, image, item, summary)
        _check_misplaced(path, format_name, summary, max_misplaced)
        if manifest is not None:
            writer.manifest = replace(manifest, counts={**manifest.counts, **summary.counts()})
    return summary


def _check_misplaced(path: Path, name: str, summary: ImportSummary, allowed: float) -> None:
    total = summary.proposals + summary.dropped
    if summary.misplaced > allowed * total:
        raise ForeignFileError(
            f"{path}: {summary.misplaced} of {total} boxes have no area or leave their image, so "
            f"{name!r} is probably not its format (or this not its data set); allow more than "
            f"{allowed:.2%} with --max-misplaced"
        )


def _check_missing(path: Path, summary: ImportSummary, images: int, missing: str) -> None:
    if summary.surplus:
        logger.info(
            "%s has %d images that the data set has not, for example %s",
            path,
            len(summary.surplus),
            summary.surplus[:_EXAMPLES],
        )
    if not summary.missing:
        return
    text = (
        f"{path} has no proposals for {len(summary.missing)} of {images} images, for example "
        f"{summary.missing[:_EXAMPLES]}"
    )
    if missing == "error":
        others = f"; its own are {summary.surplus[:_EXAMPLES]}" if summary.surplus else ""
        raise ForeignFileError(
            f"{text}{others}. If these images have no boxes (COCO JSON and CSV cannot say so), "
            "use --missing empty"
        )
    logger.warning("%s: they have no boxes now", text)


def _add(
    path: Path,
    writer: ProposalStoreWriter,
    image: ImageRecord,
    item: ForeignBoxes,
    summary: ImportSummary,
) -> None:
    image_id, size = image.image_id, image.size
    key = item.scores if item.rank is None else item.rank
    # Falling; numpy sorts NaN last.
    order = np.arange(len(item.boxes)) if key is None else np.argsort(-key, kind="stable")
    boxes = item.boxes[order]
    kept, index = clean_boxes(torch.from_numpy(boxes), size, step=0, max_boxes=len(boxes))
    rows = order[index.numpy()]
    summary.images += 1
    summary.proposals += len(rows)
    summary.dropped += len(boxes) - len(rows)
    summary.misplaced += int(_misplaced(boxes, size).sum())
    scores = None if item.scores is None else item.scores[rows]
    stability = None if item.stability is None else item.stability[rows]
    if any(column is not None and np.isinf(column).any() for column in (scores, stability)):
        raise ForeignFileError(f"{path}: image {image_id!r} has an infinite score")
    writer.add(
        image_id,
        kept.numpy(),
        scores=scores,
        stability=stability,
        sources=None if item.sources is None else item.sources[rows],
        masks=None if item.masks is None else [item.masks[row] for row in rows],
        image_size=size,
    )


def _misplaced(boxes: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """Which boxes have no area, are not finite, or leave the image by more than a pixel."""
    x1, y1, x2, y2 = boxes.T
    height, width = size
    inside = (x1 >= -_TOLERANCE) & (y1 >= -_TOLERANCE)
    inside &= (x2 <= width + _TOLERANCE) & (y2 <= height + _TOLERANCE)
    outside: np.ndarray = ~(inside & (x1 < x2) & (y1 < y2))
    return outside
