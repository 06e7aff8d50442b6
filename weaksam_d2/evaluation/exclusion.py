"""Images that are detected on and left out of every figure (the overlap of two data sets)."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.utils import comm

from weaksam_d2.artifacts import atomic_write

__all__ = ["ExcludingEvaluator", "read_image_ids"]

logger = logging.getLogger(__name__)


def read_image_ids(path: str | Path) -> frozenset[str]:
    """Image ids of a file, one in a line; ``#`` begins a comment. No path: none.

    Raises:
        FileNotFoundError: no such file. ValueError: more than one word in a line, or no id.
    """
    if not path:
        return frozenset()
    ids = set()
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
        words = line.partition("#")[0].split()
        if len(words) > 1:
            raise ValueError(f"{path}:{number}: {line!r}: expected one image id")
        ids.update(words)
    if not ids:
        raise ValueError(
            f"TEST.EXCLUDE_IDS names {path}, which lists no image id; set it to '' to leave out "
            "none"
        )
    return frozenset(ids)


class ExcludingEvaluator(DatasetEvaluator):
    """Passes on to its evaluators all images but some.

    ``image_ids`` are those that are left out, of a data set of ``total`` images; the evaluators
    must be built without them. To their figures it adds the task ``images``: how many were
    ``evaluated`` and how many ``excluded``; the list itself goes to ``excluded_ids.txt`` in
    ``folder``.

    Source: weaksam.md, Sec. 14.5.
    """

    def __init__(
        self,
        evaluators: Sequence[DatasetEvaluator],
        image_ids: Sequence[str],
        *,
        total: int,
        folder: Path,
    ) -> None:
        self._inner = DatasetEvaluators(list(evaluators))
        self._excluded = dict.fromkeys(image_ids)
        self._total = total
        self._folder = Path(folder)
        logger.info(
            "%d of %d images are left out of the figures (TEST.EXCLUDE_IDS)",
            len(self._excluded),
            total,
        )

    def reset(self) -> None:
        """Forget everything that was processed."""
        self._inner.reset()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Pass on the images that count."""
        pairs = [
            pair
            for pair in zip(inputs, outputs, strict=True)
            if str(pair[0]["image_id"]) not in self._excluded
        ]
        if pairs:
            self._inner.process([one for one, _ in pairs], [output for _, output in pairs])

    def evaluate(self) -> dict[str, Any]:
        """Figures of the images that count, and how many there are; empty off rank 0."""
        results = self._inner.evaluate()
        if not comm.is_main_process():
            return {}
        self._folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(self._folder / "excluded_ids.txt") as temporary:
            text = "".join(f"{image_id}\n" for image_id in self._excluded)
            Path(temporary).write_text(text, encoding="utf-8")
        excluded = len(self._excluded)
        counts = {"evaluated": float(self._total - excluded), "excluded": float(excluded)}
        return {**results, "images": counts}
