"""Prompts of data set records, from their activation maps into a prompt set."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from weaksam_d2.artifacts import CamStore, Prompts, PromptSetWriter

from .build import PromptSource

__all__ = ["PromptsSummary", "generate_prompts"]

logger = logging.getLogger(__name__)


@dataclass
class PromptsSummary:
    """What was written: images, and the number of prompts of each source."""

    images: int = 0
    prompts: Counter[str] = field(default_factory=Counter)

    def counts(self) -> dict[str, Any]:
        """The summary as JSON numbers; ``prompts`` is the total, ``prompts_<source>`` a part."""
        parts = {f"prompts_{name}": self.prompts[name] for name in sorted(self.prompts)}
        return {"images": self.images, "prompts": self.prompts.total(), **parts}


def generate_prompts(
    records: Iterable[Mapping[str, Any]],
    sources: Sequence[PromptSource],
    *,
    cams: CamStore | None,
    writer: PromptSetWriter,
    on_progress: Callable[[int], Any] | None = None,
) -> PromptsSummary:
    """Write the prompts of each record, source by source (weaksam.md, Sec. 3.4).

    The prompt set's ``source_names`` are the names of the sources in their order. A source that
    is not ``stored`` (the grid) is left to the set's parameter. cams None: no activation maps.
    on_progress is called with 1 after each image.

    Raises:
        KeyError: an image that the store of activation maps does not have.
        ValueError: maps of an image of another size.
    """
    names = tuple(source.name for source in sources)
    stored = [source for source in sources if source.stored]
    summary = PromptsSummary(prompts=Counter({source.name: 0 for source in stored}))
    for record in records:
        image_id = str(record["image_id"])
        maps = None if cams is None else cams[image_id]
        parts = [_no_prompts(names)]
        for source in stored:
            part = source(record, maps)
            summary.prompts[source.name] += len(part)
            row = np.full(len(part), names.index(source.name), np.uint8)
            parts.append(replace(part, sources=row, source_names=names))
        size = (int(record["height"]), int(record["width"]))
        writer.add(image_id, Prompts.concatenate(parts), size)
        summary.images += 1
        if on_progress is not None:
            on_progress(1)
    return summary


def _no_prompts(source_names: tuple[str, ...]) -> Prompts:
    return Prompts(
        points=np.zeros((0, 2), np.float32),
        offsets=np.zeros(1, np.int64),
        scores=np.zeros(0, np.float32),
        classes=np.zeros(0, np.int32),
        sources=np.zeros(0, np.uint8),
        source_names=source_names,
    )
