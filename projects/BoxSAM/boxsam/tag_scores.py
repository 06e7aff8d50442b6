"""Scores of every class in every image of a set, as a file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from weaksam_d2.artifacts import ArtifactError, read_json, write_json

from .selection import select_per_class

__all__ = ["TagScores"]

_FORMAT = "weaksam_d2.tag_scores/1"


@dataclass(frozen=True)
class TagScores:
    """Probabilities float64 (I, C) of the images of a set, in its order."""

    class_names: tuple[str, ...]
    image_ids: tuple[str, ...]
    scores: np.ndarray

    @classmethod
    def of(cls, class_names: Sequence[str], scores: Mapping[str, np.ndarray]) -> "TagScores":
        """From the scores (C,) of each image."""
        rows = np.array(list(scores.values()), np.float64).reshape(-1, len(class_names))
        return cls(tuple(class_names), tuple(scores), rows)

    def write(self, path: Path) -> None:
        """Write JSON: format, class names, and the row of each image."""
        rows = dict(zip(self.image_ids, self.scores.tolist(), strict=True))
        write_json(path, {"format": _FORMAT, "classes": list(self.class_names), "scores": rows})

    @classmethod
    def read(cls, path: Path, class_names: Sequence[str]) -> "TagScores":
        """Read what :meth:`write` wrote.

        Raises:
            ArtifactError: another kind of file, or scores of other classes.
        """
        found = read_json(path)
        if not isinstance(found, dict) or found.get("format") != _FORMAT:
            raise ArtifactError(f"{path} is no file of tag scores (format {_FORMAT!r})")
        if tuple(found["classes"]) != tuple(class_names):
            raise ArtifactError(
                f"{path} has scores of {found['classes'][:3]} …, the data set has the classes "
                f"{list(class_names)[:3]} …"
            )
        return cls.of(class_names, {key: np.array(row) for key, row in found["scores"].items()})

    def best_of_classes(self, top_n: int) -> dict[str, list[int]]:
        """Tags of each image if every class takes its ``top_n`` best images."""
        return dict(zip(self.image_ids, select_per_class(self.scores, top_n=top_n), strict=True))
