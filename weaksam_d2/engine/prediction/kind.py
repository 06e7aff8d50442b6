"""What the predictions of detectors and of segmenters differ in."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

__all__ = ["Entry", "PredictionKind"]

Entry = Mapping[str, Any]


class PredictionKind(Protocol):
    """What one prediction is: how it is stored, drawn, and joined with those of other images.

    ``counted`` names what :meth:`join` counts. An entry is what is known of one prediction, as
    JSON values under names of its kind; ``found`` is what the predictor gave.
    """

    counted: str

    @property
    def categories(self) -> Sequence[Mapping[str, Any]]:
        """Names of the classes and their ids in the results, as ``images.json`` has them."""

    def settings(self, *, pictures: bool) -> dict[str, Any]:
        """What decides files and pictures besides the model, as JSON values."""

    def store(self, root: Path, image_id: str, found: Mapping[str, Any]) -> dict[str, Any]:
        """The entry of an image; what it has besides goes below ``root``, file by file atomic."""

    def is_stored(self, root: Path, entries: Iterable[Entry]) -> bool:
        """Whether what :meth:`store` has written besides these entries is still there."""

    def draw(
        self, image: np.ndarray, found: Mapping[str, Any], entry: Entry, *, side: int
    ) -> np.ndarray:
        """The prediction on its image, RGB uint8 whose longer side is ``side`` pixels."""

    def join(self, root: Path, entries: Iterable[tuple[Mapping[str, Any], Entry]]) -> int:
        """Write the files that hold all images (their rows and entries); returns a count."""
