"""Endless orders of training images: by their tags, of two kinds, or such that a run resumes."""

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import torch
from detectron2.data.samplers import RepeatFactorTrainingSampler, TrainingSampler
from detectron2.utils import comm
from torch.utils.data import Dataset, Sampler

from weaksam_d2.data.image_labels import image_labels
from weaksam_d2.ops.random_state import seeded

__all__ = [
    "ComposedTrainingSampler",
    "ResumableSampler",
    "SeededDataset",
    "TagBalancedTrainingSampler",
    "TagRepeatFactorTrainingSampler",
    "build_train_sampler",
]

# Every sampler here, and detectron2's, is an endless stream of rows that the ranks take in turns.
_NO_TAG = -1


class TagRepeatFactorTrainingSampler(RepeatFactorTrainingSampler):  # type: ignore[misc]
    """Images with rare tags come more often: detectron2's repeat factors of image labels.

    A class of f of the images has the factor max(1, sqrt(threshold / f)), an image the largest
    one of its classes, an image without tags 1.

    Source: LVIS (Gupta et al., 2019), Appendix B.2.
    """

    def __init__(
        self,
        labels: Sequence[Sequence[int]],
        *,
        repeat_thresh: float,
        sqrt: bool = True,
        seed: int | None = None,
    ) -> None:
        """Count ``labels``, the classes of each image (``DATALOADER.REPEAT_THRESHOLD``, _SQRT)."""
        counted = [{"annotations": [{"category_id": c} for c in row]} for row in labels]
        factors = self.repeat_factors_from_category_frequency(counted, repeat_thresh, sqrt)
        super().__init__(factors, seed=seed)


class TagBalancedTrainingSampler(Sampler[int]):
    """Every class equally often: each round takes one image of each class, in random order.

    The images of a class come in random order, all of them before one comes again. Images without
    tags are a group of their own, so they are seen as often as a class.
    """

    def __init__(self, labels: Sequence[Sequence[int]], *, seed: int | None = None) -> None:
        """Group the images by ``labels``, the classes of each; ``seed`` None: any."""
        self._groups: dict[int, list[int]] = {}
        for row, classes in enumerate(labels):
            for label in sorted({int(c) for c in classes}) or [_NO_TAG]:
                self._groups.setdefault(label, []).append(row)
        if not self._groups:
            raise ValueError("a training set needs at least one image")
        self._seed = int(comm.shared_random_seed() if seed is None else seed)

    def __iter__(self) -> Iterator[int]:
        return islice(self._infinite_indices(), comm.get_rank(), None, comm.get_world_size())

    def _infinite_indices(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed)
        groups = [_shuffled(self._groups[label], generator) for label in sorted(self._groups)]
        while True:
            for group in torch.randperm(len(groups), generator=generator).tolist():
                yield next(groups[group])


def _shuffled(rows: Sequence[int], generator: torch.Generator) -> Iterator[int]:
    while True:
        yield from (rows[k] for k in torch.randperm(len(rows), generator=generator).tolist())


class ComposedTrainingSampler(Sampler[int]):
    """Batches of two kinds of images: tagged ones first, then fully labelled ones.

    Rows of the second kind are counted from ``first_boxed`` on. Both orders are endless and keep
    their own place, so each kind is used up before it is shuffled again. extras.md, Sec. 6.
    """

    def __init__(
        self, tagged: Any, boxed: Any, *, first_boxed: int, batch_size: int, num_boxed: int
    ) -> None:
        """Compose the orders ``tagged`` and ``boxed``; batch size and count are over all ranks.

        Raises:
            ValueError: a batch would lack one of the kinds.
        """
        if not 0 < num_boxed < batch_size:
            raise ValueError(
                f"SOLVER.IMS_PER_BATCH {batch_size} with {num_boxed} fully labelled images: "
                "DATASETS.BOXES_TRAIN needs at least one image of each kind in a batch"
            )
        self._tagged, self._boxed = tagged, boxed
        self._first_boxed = first_boxed
        self._counts = batch_size - num_boxed, num_boxed

    def __iter__(self) -> Iterator[int]:
        return islice(self._infinite_indices(), comm.get_rank(), None, comm.get_world_size())

    def _infinite_indices(self) -> Iterator[int]:
        tagged, boxed = self._tagged._infinite_indices(), self._boxed._infinite_indices()
        while True:
            yield from islice(tagged, self._counts[0])
            yield from (self._first_boxed + row for row in islice(boxed, self._counts[1]))


class ResumableSampler(Sampler[tuple[int, int]]):
    """This rank's (position in the stream, row) pairs of a sampler, from position ``skip`` on.

    ``skip`` counts samples of all ranks; it may be set until iteration begins. For
    :class:`SeededDataset`.
    """

    def __init__(self, sampler: Any, *, skip: int = 0) -> None:
        """Wrap a sampler of this module, or one of detectron2 that has a seed."""
        self._sampler = sampler
        self.skip = skip

    def __iter__(self) -> Iterator[tuple[int, int]]:
        start, step = self.skip + comm.get_rank(), comm.get_world_size()
        return islice(enumerate(self._sampler._infinite_indices()), start, None, step)


class SeededDataset(Dataset[Any]):
    """Maps row ``row`` for position ``p`` of the stream with seeds hashed from (seed, p).

    What a sample draws then depends neither on the worker that makes it nor on what was drawn
    before. design.md, Sec. 4 (engine).
    """

    def __init__(self, dataset: Any, seed: int) -> None:
        """Wrap a map-style data set whose items are drawn from the process's generators."""
        self._dataset = dataset
        self._seed = seed

    def __len__(self) -> int:
        return len(self._dataset)

    def __getitem__(self, place: tuple[int, int]) -> Any:
        position, row = place
        with seeded(self._seed, position):
            return self._dataset[row]


def build_train_sampler(
    cfg: Any, records: Sequence[dict[str, Any]], *, seed: int | None
) -> Any | None:
    """Build what ``DATALOADER.SAMPLER_TRAIN`` names; None for a name that is detectron2's alone.

    The two tag samplers count ``image_labels``, or the classes of the annotations of a set that
    has no labels.

    Raises:
        ValueError: a sampler that counts annotations of records without.
    """
    node, name = cfg.DATALOADER, cfg.DATALOADER.SAMPLER_TRAIN
    if name == "TrainingSampler":
        return TrainingSampler(len(records), seed=seed)
    if name == "TagBalancedTrainingSampler":
        return TagBalancedTrainingSampler(_tags(records), seed=seed)
    if name == "TagRepeatFactorTrainingSampler":
        return TagRepeatFactorTrainingSampler(
            _tags(records), repeat_thresh=node.REPEAT_THRESHOLD, sqrt=node.REPEAT_SQRT, seed=seed
        )
    if any("annotations" not in record for record in records):
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN '{name}' counts annotations, which a weak data set has "
            "not; expected TrainingSampler, TagRepeatFactorTrainingSampler or "
            "TagBalancedTrainingSampler"
        )
    if name == "RepeatFactorTrainingSampler":
        factors = RepeatFactorTrainingSampler.repeat_factors_from_category_frequency(
            records, node.REPEAT_THRESHOLD, sqrt=node.REPEAT_SQRT
        )
        return RepeatFactorTrainingSampler(factors, seed=seed)
    return None


def _tags(records: Sequence[dict[str, Any]]) -> list[Sequence[int]]:
    return [
        record["image_labels"]
        if "image_labels" in record
        else image_labels(record["annotations"], difficult_in_labels=True)
        for record in records
    ]
