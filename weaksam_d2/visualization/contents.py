"""What a report shows: records that hold figures, tables and pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

__all__ = ["SECTIONS", "Panel", "Report", "Table"]

# Name of each section, in page order, with its title and first line.
SECTIONS: Mapping[str, tuple[str, str]] = {
    "cams": ("Activation maps and prompts", "Where the classifier looks, and what SAM is asked."),
    "proposals": ("Proposals", "Boxes from class activation peaks and a grid through SAM."),
    "wsod": ("Weakly supervised detector", "Trained on image tags and proposals only."),
    "pgt": ("Pseudo ground truth", "Detections on the training images turned into labels."),
    "retrain": ("Retrained detector", "A stock detector trained on the pseudo labels."),
    "rounds": ("Self-training", "Each round's detector labels the images for the next one."),
    "labels": (
        "Pseudo labels",
        "A class for each pixel of the training images.",
    ),
    "segment": ("Segmenter", "Trained on the pseudo labels, seen on held-out images."),
    "masks": ("Instance masks", "Pseudo boxes as SAM prompts, then instance segmentation."),
}


@dataclass(frozen=True)
class Panel:
    """Pictures of one image beside each other, each an RGB uint8 array with its caption.

    ``section`` is a key of ``SECTIONS`` ("" puts it into a gallery of its own), ``note`` a
    sentence below it, for a failure case its reason.
    """

    image_id: str
    pairs: Sequence[tuple[str, np.ndarray]]
    note: str = ""
    section: str = ""


@dataclass(frozen=True)
class Table:
    """A table; a cell that is None or NaN is shown as a dash. ``section`` as in `Panel`."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    section: str = ""


@dataclass(frozen=True)
class Report:
    """Everything a page shows; what is empty is left out of it, and never shown as zero.

    ``metrics`` has the layout of ``metrics.json`` (percent; ``AP50_low`` and ``AP50_high``
    beside ``AP50`` are its 95 % interval). ``recall_curves`` maps names to ``{"iou", "recall"}``,
    ``recall_counts`` to ``{"count", "recall"}``; ``training`` maps a section to rows of
    detectron2's ``metrics.json``; ``pgt_statistics`` are labelled numbers; ``description`` is a
    short paragraph below the title.
    """

    title: str
    subtitle: str = ""
    description: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    recall_curves: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    recall_counts: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)
    training: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    pgt_statistics: Mapping[str, Any] = field(default_factory=dict)
    panels: Sequence[Panel] = ()
    failures: Sequence[Panel] = ()
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        named = [part.section for part in self.panels] + [part.section for part in self.tables]
        for section in named:
            if section and section not in SECTIONS:
                raise ValueError(f"section must be one of {list(SECTIONS)} or '', got {section!r}")
        unknown = [name for name in self.training if name not in SECTIONS]
        if unknown:
            raise ValueError(f"training curves belong to one of {list(SECTIONS)}, got {unknown}")
