"""Mean IoU of a segmenter, counted image by image; its label maps become an artifact."""

import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm

from weaksam_d2.artifacts import LabelSpace, SemSegLabelsWriter, merge_sem_seg_labels
from weaksam_d2.evaluation.collect import gather_by_image, require_all
from weaksam_d2.evaluation.label_figures import LabelFigures, LabelTally, Truth, joined_figures
from weaksam_d2.ops import best_labels

__all__ = ["WSSSEvaluator"]

logger = logging.getLogger(__name__)

_IN_TABLE = ("IoU", "precision", "recall")  # figures of a class that have a column


class WSSSEvaluator(DatasetEvaluator):
    """Mean IoU of a model whose outputs are ``{"sem_seg": scores (C + 1, H, W)}``.

    Figures, in percent under the task ``sem_seg``: those of :meth:`LabelFigures.summary` and
    ``IoU-<class>``, ``precision-<class>``, ``recall-<class>``. Label maps of all images are
    written as the artifact ``labels`` in ``output_dir``; the matrix of each rank is summed.

    It differs from detectron2's ``SemSegEvaluator`` (same mean on a set where all classes occur):
    a class that is predicted and never there counts, with 0; a value that is no label is an
    error; predictions are not kept in memory. Source: wsss.md, Sec. 2.
    """

    def __init__(
        self,
        image_ids: Sequence[str],
        space: LabelSpace,
        *,
        truth: Truth | None = None,
        truth_ids: Sequence[str] | None = None,
        output_dir: Path | None = None,
        bootstrap: int = 0,
        seed: int = 0,
        distributed: bool = True,
    ) -> None:
        """Prepare for the images of a split.

        Args:
            image_ids: of the split, in its order.
            space: what the channels of the scores are.
            truth: the true label map of an image; None: label maps are written, nothing measured.
            truth_ids: the images that count; None: all.
            output_dir: where ``labels`` is made; None: nowhere.
            bootstrap, seed: as :meth:`LabelFigures.summary`.
            distributed: whether all ranks take part.

        Raises:
            ValueError: no image of the split has a true label map.
        """
        self._ids = [str(image_id) for image_id in image_ids]
        self._known = frozenset(self._ids)
        counted = self._known if truth_ids is None else frozenset(map(str, truth_ids))
        self._counted = self._known & counted if truth is not None else frozenset()
        if truth is not None and not self._counted:
            raise ValueError(
                f"none of the {len(self._ids)} images has a true label map; the set that "
                "sem_seg_evaluation_name names has other image ids"
            )
        self._space = space
        self._truth = truth
        self._folder = None if output_dir is None else Path(output_dir) / "labels"
        self._bootstrap, self._seed = bootstrap, seed
        self._distributed = distributed
        self._writer: SemSegLabelsWriter | None = None
        self.reset()

    def reset(self) -> None:
        """Forget everything that was processed."""
        if self._writer is not None:  # an evaluation that was not finished publishes nothing
            stopped = RuntimeError("reset() before evaluate()")
            self._writer.__exit__(RuntimeError, stopped, None)
        self._writer = None
        self._tally = LabelTally(self._space.num_labels, ignore=self._space.ignore)
        self._seen: dict[str, None] = {}

    @property
    def matrix(self) -> np.ndarray:
        """Pixels of each true and predicted label that this process has counted."""
        return self._tally.matrix

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Count and write the label map of each image."""
        for one, output in zip(inputs, outputs, strict=True):
            image_id = str(one["image_id"])
            if image_id not in self._known:
                raise ValueError(
                    f"image {image_id!r} is not among the {len(self._known)} images of the split "
                    "that is evaluated"
                )
            if image_id in self._seen:
                raise ValueError(f"image {image_id!r} was predicted twice; call reset() between")
            self._seen[image_id] = None
            try:
                label = self._label(output["sem_seg"])
                if image_id in self._counted and self._truth is not None:
                    self._tally.add(image_id, self._truth(image_id), label)
            except ValueError as error:
                raise ValueError(f"prediction of image {image_id!r}: {error}") from error
            if self._folder is not None:
                self._open_writer(self._folder).add(image_id, label)

    def _label(self, scores: Any) -> np.ndarray:
        if len(scores) != self._space.num_labels:
            raise ValueError(
                f"sem_seg has {len(scores)} channels, {self._space.name!r} has "
                f"{self._space.num_labels} labels (background and the classes); set "
                "MODEL.SEM_SEG_HEAD.NUM_CLASSES to that"
            )
        return best_labels(scores)

    def _open_writer(self, folder: Path) -> SemSegLabelsWriter:
        if self._writer is None:
            writer = SemSegLabelsWriter(
                self._part(folder, comm.get_rank()) if self._several() else folder,
                space=self._space,
                system="segmenter",
                base="custom",
                supervision="none",  # of an image that is predicted nothing is known
                overwrite=True,
            )
            self._writer = writer.__enter__()  # closed in evaluate
        return self._writer

    def _several(self) -> bool:
        return self._distributed and comm.get_world_size() > 1

    @staticmethod
    def _part(folder: Path, rank: int) -> Path:
        return folder.with_name(f"{folder.name}.rank{rank}")

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Figures of the whole split on rank 0, an empty dict on other ranks.

        Raises:
            ValueError: images without a prediction.
        """
        if self._folder is not None:
            # A rank without images writes an empty part.
            self._open_writer(self._folder).__exit__(None, None, None)
            self._writer = None
        seen = gather_by_image(self._seen, self._ids, distributed=self._distributed)
        counts = gather_by_image(self._tally.counts, self._ids, distributed=self._distributed)
        matrices = [self._tally.matrix]
        if self._several():
            matrices = comm.gather(self._tally.matrix, dst=0)
        if seen is None or counts is None:
            return {}
        require_all(self._ids, seen)
        if self._folder is not None and self._several():
            self._merge(self._folder)
        if self._truth is None:
            return {}
        figures = joined_figures(self._space.classes, np.sum(matrices, axis=0), counts)
        return {"sem_seg": self._row(figures)}

    def _merge(self, folder: Path) -> None:
        parts = [self._part(folder, rank) for rank in range(comm.get_world_size())]
        merge_sem_seg_labels(parts, folder, overwrite=True)
        for part in parts:
            shutil.rmtree(part)

    def _row(self, figures: LabelFigures) -> dict[str, float]:
        row = figures.summary(bootstrap=self._bootstrap, seed=self._seed)
        for cls, values in figures.per_class().items():
            row |= {f"{name}-{cls}": values[name] for name in _IN_TABLE}
        logger.info(
            "mIoU %.2f over %d classes and %d images",
            *(row["mIoU"], row["num_classes"], row["images"]),
        )
        return row
