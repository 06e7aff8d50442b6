"""Dataset mappers of weak supervision: image, proposals and image-level classes, never boxes."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.structures import BoxMode
from detectron2.utils.registry import Registry

from weaksam_d2.artifacts import ProposalStore
from weaksam_d2.data.images import damaged_image_is_named

__all__ = [
    "DATASET_MAPPER_REGISTRY",
    "ImageLabelMapper",
    "WeakDatasetMapper",
    "rank_logits",
    "usable_boxes",
]

logger = logging.getLogger(__name__)

DATASET_MAPPER_REGISTRY = Registry("DATASET_MAPPER")
DATASET_MAPPER_REGISTRY.__doc__ = """
Dataset mappers that ``INPUT.MAPPER_NAME`` may name; called as ``NAME(cfg, is_train)``.
"""

_EXTRA_LABELS = ("negative_labels", "unknown_labels")  # optional in a record
_FORBIDDEN_KEYS = ("annotations", "sem_seg_file_name", "pan_seg_file_name", "instances")
# Rounding of the float32 files may put a clipped box this far outside of its image (pixels).
_TOLERANCE = 0.01


def rank_logits(count: int) -> np.ndarray:
    """Return ``-i`` for rows 0 … count - 1, float32: row order is rank, and every sort keeps it."""
    return -np.arange(count, dtype=np.float32)


def usable_boxes(
    boxes: np.ndarray, image_size: tuple[int, int], *, min_side: float, where: str
) -> np.ndarray:
    """Return the proposals that training sees, (m, 4) float32 XYXY in the given order.

    Exact duplicates (the first stays) and boxes narrower or lower than ``min_side`` pixels of the
    original image are left out (WeakSAM, Sec. 4.1).

    Raises:
        ValueError: wrong shape, a non-finite value, or a box outside of the image.
    """
    return _usable(boxes, image_size, min_side=min_side, where=where)[0]


def _usable(
    boxes: np.ndarray, image_size: tuple[int, int], *, min_side: float, where: str
) -> tuple[np.ndarray, np.ndarray]:
    """The proposals of :func:`usable_boxes` and their rows (m,) in the given ones."""
    height, width = image_size
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"proposals of {where} must have shape (n, 4), got {boxes.shape}")
    boxes = boxes.astype(np.float32)
    limits = np.array([width, height, width, height], dtype=np.float32)
    inside = (boxes >= -_TOLERANCE) & (boxes <= limits + _TOLERANCE)  # False for NaN
    bad = ~inside.all(axis=1) | (boxes[:, 2] <= boxes[:, 0]) | (boxes[:, 3] <= boxes[:, 1])
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"proposal {row} of {where} is {boxes[row].tolist()} in an image of {width}x{height}: "
            "expected x1 < x2 and y1 < y2 within the image; generate the proposals again"
        )
    boxes = np.clip(boxes, 0, limits)
    sides = boxes[:, 2:] - boxes[:, :2]
    large = np.flatnonzero((sides >= min_side).all(axis=1))
    _, first = np.unique(boxes[large], axis=0, return_index=True)
    rows = large[np.sort(first)]
    return boxes[rows], rows


@DATASET_MAPPER_REGISTRY.register()
class ImageLabelMapper(DatasetMapper):
    """Map a weak record to image and image-level classes, for classifiers.

    Adds ``image_labels`` (int64 tensor of contiguous classes), and ``negative_labels`` and
    ``unknown_labels`` if the record has them, to detectron2's ``image`` (C, H, W uint8),
    ``height``, ``width``, ``image_id``, ``file_name``.
    """

    @configurable
    def __init__(self, is_train: bool, *, keep_test_labels: bool = False, **kwargs: Any) -> None:
        """Take detectron2's ``DatasetMapper`` arguments and one of ours.

        Args:
            keep_test_labels: leave ``image_labels`` in test batches (to detect on the training
                set for pseudo ground truth); else they are removed there.
        """
        super().__init__(is_train, **kwargs)
        self.keep_labels = is_train or keep_test_labels

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Read ``INPUT``; random crops are refused, they could cut off what a tag is about."""
        if is_train and cfg.INPUT.CROP.ENABLED:
            raise ValueError(
                "INPUT.CROP.ENABLED is True: a crop may remove the object of a tag; weak "
                "supervision needs False"
            )
        arguments: dict[str, Any] = super().from_config(cfg, is_train)
        arguments.pop("precomputed_proposal_topk", None)
        arguments["keep_test_labels"] = cfg.MODEL.WSOD.TEST_LABEL_FILTER
        return arguments

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Raises:
            ValueError: the record holds annotations, or a damaged image; both are named.
        """
        where = f"image '{dataset_dict.get('image_id')}' ({dataset_dict.get('file_name')})"
        for key in _FORBIDDEN_KEYS:
            if key in dataset_dict:
                raise ValueError(
                    f"the record of {where} holds '{key}'; {type(self).__name__} takes weak data "
                    "sets only, which have image_labels and nothing else"
                )
        record = dict(dataset_dict)
        labels = record.pop("image_labels", None)
        if labels is None and self.keep_labels:
            raise ValueError(f"the record of {where} has no image_labels; use a weak data set")
        extra = {key: record.pop(key) for key in _EXTRA_LABELS if key in record}
        with damaged_image_is_named(record["file_name"]):
            mapped = self.map_image(record)
        if self.keep_labels:
            mapped["image_labels"] = torch.as_tensor(list(labels or ()), dtype=torch.int64)
            for key, classes in extra.items():
                mapped[key] = torch.as_tensor(list(classes), dtype=torch.int64)
        return mapped

    def map_image(self, record: dict[str, Any]) -> dict[str, Any]:
        """Read and transform the image of a record without labels; may change the record."""
        mapped: dict[str, Any] = super().__call__(record)
        return mapped


@DATASET_MAPPER_REGISTRY.register()
class WeakDatasetMapper(ImageLabelMapper):
    """Image, proposals and image-level classes; never boxes.

    Adds ``proposals`` (``Instances`` with ``proposal_boxes`` in pixels of the resized image and
    ``objectness_logits`` = -row) to what :class:`ImageLabelMapper` gives. Row order and count are
    those of the file after :func:`usable_boxes`; an image without any gets one full-image box.
    With ``objectness`` the proposals have a field of that name, their stored scores (0 for a
    proposal without one).
    """

    @configurable
    def __init__(
        self,
        is_train: bool,
        *,
        precomputed_proposal_topk: int,
        min_side: float = 20,
        proposal_stores: Sequence[str] = (),
        objectness: bool = False,
        **kwargs: Any,
    ) -> None:
        """Make a mapper.

        Args:
            precomputed_proposal_topk: more proposals than this in an image are an error.
            min_side: pixels of the original image.
            proposal_stores: folders searched for an image whose record names no
                ``proposal_file``; opened when first needed, in each worker.
            objectness: give the stored scores; an image with proposals and none is an error.
        """
        super().__init__(is_train, precomputed_proposal_topk=precomputed_proposal_topk, **kwargs)
        self.min_side = min_side
        self.proposal_stores = tuple(str(store) for store in proposal_stores)
        self.objectness = objectness
        self.full_image_count = 0
        self._opened: dict[str, ProposalStore] = {}

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """Read ``INPUT``, ``MODEL.WSOD.MIN_SIDE`` and the proposal keys of ``DATASETS``.

        With ``TEST.AUG.ENABLED`` test batches hold image and proposals as they are in the file.
        """
        if not cfg.MODEL.LOAD_PROPOSALS:
            raise ValueError("WeakDatasetMapper needs MODEL.LOAD_PROPOSALS True, it is False")
        mode = "TRAIN" if is_train else "TEST"
        files = cfg.DATASETS[f"PROPOSAL_FILES_{mode}"]
        arguments = super().from_config(cfg, is_train)
        if cfg.TEST.AUG.ENABLED and not is_train:
            arguments["augmentations"] = []  # every view is made from the original image
        return {
            **arguments,
            "precomputed_proposal_topk": cfg.DATASETS[f"PRECOMPUTED_PROPOSAL_TOPK_{mode}"],
            "min_side": cfg.MODEL.WSOD.MIN_SIDE,
            "proposal_stores": [f for f in dict.fromkeys(files) if not f.endswith(".pkl")],
            "objectness": cfg.MODEL.WSOD.OBJECTNESS_SCALE,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Leave open files behind: a worker that is spawned opens its own."""
        return {**self.__dict__, "_opened": {}}

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map one record.

        Raises:
            KeyError: no store has the image. ValueError: as :class:`ImageLabelMapper`; an invalid
            proposal; more proposals than ``precomputed_proposal_topk``.
        """
        record = dict(dataset_dict)
        where = f"image '{record.get('image_id')}'"
        size = (record["height"], record["width"])
        given, scores = self._read_boxes(record)
        boxes, rows = _usable(given, size, min_side=self.min_side, where=where)
        objectness = self._objectness(scores, rows, where)
        if len(boxes) > self.proposal_topk:
            raise ValueError(
                f"{where} has {len(boxes)} proposals, DATASETS.PRECOMPUTED_PROPOSAL_TOPK_* allows "
                f"{self.proposal_topk} and would cut them silently; raise it (100000)"
            )
        if not len(boxes):
            boxes, objectness = self._full_image_box(where, size), np.zeros(1, dtype=np.float32)
        record["proposal_boxes"] = boxes
        record["proposal_bbox_mode"] = BoxMode.XYXY_ABS
        record["proposal_objectness_logits"] = rank_logits(len(boxes))
        mapped = super().__call__(record)
        if len(mapped["proposals"]) != len(boxes):
            raise ValueError(
                f"{where}: {len(boxes) - len(mapped['proposals'])} proposals have no area after "
                f"the resize to {mapped['proposals'].image_size}; raise MODEL.WSOD.MIN_SIDE"
            )
        if self.objectness:
            mapped["proposals"].objectness = torch.from_numpy(objectness)
        return mapped

    def _objectness(self, scores: Any, rows: np.ndarray, where: str) -> np.ndarray:
        if not self.objectness or not len(rows):
            return np.zeros(len(rows), dtype=np.float32)
        if scores is None:
            raise ValueError(
                f"MODEL.WSOD.OBJECTNESS_SCALE needs scores, the proposals of {where} have none; "
                "use a proposal store with scores, or set it to False"
            )
        return np.nan_to_num(np.asarray(scores, dtype=np.float32)[rows], nan=0.0)

    def _full_image_box(self, where: str, size: tuple[int, int]) -> np.ndarray:
        self.full_image_count += 1
        if self.full_image_count == 1:
            logger.info("%s has no usable proposal: full-image box (logged once)", where)
        return np.array([[0, 0, size[1], size[0]]], dtype=np.float32)

    def _read_boxes(self, record: dict[str, Any]) -> tuple[np.ndarray, Any]:
        """Pop the record's own proposals (detectron2's way) or read those of its store.

        Returns boxes (n, 4) and their scores (n,), None if there are none.
        """
        if "proposal_boxes" in record:
            scores = record.pop("proposal_objectness_logits")
            boxes = np.asarray(record.pop("proposal_boxes"), dtype=np.float32).reshape(-1, 4)
            mode = record.pop("proposal_bbox_mode")
            return np.asarray(BoxMode.convert(boxes, mode, BoxMode.XYXY_ABS)), scores
        named = record.pop("proposal_file", "")
        candidates = (named,) if named else self.proposal_stores
        image_id = str(record["image_id"])
        found = [path for path in candidates if image_id in self._open(path)]
        if not found:
            raise KeyError(
                f"image '{image_id}' is not in the proposal store {list(candidates)}; generate "
                "proposals for this data set, or name the right DATASETS.PROPOSAL_FILES_*"
            )
        if len(found) > 1:
            raise ValueError(f"image '{image_id}' is in several proposal stores: {found}")
        stored = self._open(found[0])[image_id]
        return np.asarray(stored.boxes), stored.scores

    def _open(self, path: str) -> ProposalStore:
        if path not in self._opened:
            self._opened[path] = ProposalStore.open(Path(path))
        return self._opened[path]
