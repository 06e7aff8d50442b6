"""Proposals of data set records, by any method, into a proposal store."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weaksam_d2.artifacts import PromptSet, Proposals, ProposalStoreWriter
from weaksam_d2.data import DamagedImageError, read_image

from .build import ProposalMethod

__all__ = ["ProposalsSummary", "generate_proposals"]

logger = logging.getLogger(__name__)


@dataclass
class ProposalsSummary:
    """What was written: images, boxes of each source, skipped (image id, reason) pairs."""

    images: int = 0
    proposals: dict[str, int] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)

    def counts(self) -> dict[str, Any]:
        """As JSON values; ``proposals`` is the total, ``proposals_<source>`` a part."""
        parts = {f"proposals_{name}": count for name, count in self.proposals.items()}
        skipped = [{"image_id": image_id, "reason": reason} for image_id, reason in self.skipped]
        total = sum(self.proposals.values())
        return {"images": self.images, "proposals": total, **parts, "skipped": skipped}


def generate_proposals(
    records: Iterable[Mapping[str, Any]],
    prompts: PromptSet | None,
    method: ProposalMethod,
    *,
    writer: ProposalStoreWriter,
    read_image: Callable[..., np.ndarray] = read_image,
    on_progress: Callable[[int], Any] | None = None,
) -> ProposalsSummary:
    """Write each record's proposals (weaksam.md, Sec. 4); an image without any keeps its place.

    The store's ``source_names`` are the method's. An image that cannot be read has an empty entry
    and is listed in the summary. on_progress is called with 1 after each image.

    Raises:
        KeyError: an image that the prompt set does not have.
        ValueError: a record or prompts of another image size.
    """
    summary = ProposalsSummary(proposals=dict.fromkeys(method.source_names, 0))
    grid = None if prompts is None else prompts.grid
    for record in records:
        image_id = str(record["image_id"])
        try:
            image = read_image(record["file_name"], "RGB")
        except DamagedImageError as error:
            logger.warning("image %s is skipped: %s", image_id, error)
            summary.skipped.append((image_id, str(error)))
            size = (int(record["height"]), int(record["width"]))
            boxes = Proposals(np.zeros((0, 4), np.float32), size, None, None, None)
        else:
            _check_size(record, image, prompts)
            boxes = method(image, None if prompts is None else prompts[image_id], grid)
        _add(writer, image_id, boxes, summary)
        if on_progress is not None:
            on_progress(1)
    return summary


def _check_size(record: Mapping[str, Any], image: np.ndarray, prompts: PromptSet | None) -> None:
    size = (image.shape[0], image.shape[1])
    expected = (record.get("height", size[0]), record.get("width", size[1]))
    if size != expected:
        raise ValueError(
            f"image {record['file_name']} is {size[0]} x {size[1]} (height x width), the data "
            f"set says {expected[0]} x {expected[1]}; correct the data set's record"
        )
    if prompts is not None and tuple(prompts.image_size(str(record["image_id"]))) != size:
        raise ValueError(
            f"image {record['file_name']} is {size[0]} x {size[1]} (height x width), its prompts "
            f"are of {tuple(prompts.image_size(str(record['image_id'])))}; generate them again"
        )


def _add(
    writer: ProposalStoreWriter, image_id: str, proposals: Proposals, summary: ProposalsSummary
) -> None:
    writer.add(
        image_id,
        proposals.boxes,
        scores=proposals.scores,
        stability=proposals.stability,
        sources=proposals.sources,
        masks=proposals.masks,
        image_size=proposals.image_size,
    )
    summary.images += 1
    if proposals.sources is not None:
        for row, count in enumerate(np.bincount(proposals.sources)):
            summary.proposals[proposals.source_names[row]] += int(count)
