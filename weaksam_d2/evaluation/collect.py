"""What evaluators share: ground truth of records, predictions of all ranks, in memory."""

import itertools
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import BoxMode
from detectron2.utils import comm

__all__ = ["DetectionEvaluator", "Detections", "GroundTruth", "gather_by_image", "require_all"]


@dataclass(frozen=True)
class Detections:
    """Detections of one image: XYXY boxes float32 (n, 4), scores float32, classes int64 (n,).

    ``masks`` are n COCO run-length encodings ({"size", "counts"}), None where nobody asked.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: tuple[dict[str, Any], ...] | None = None


@dataclass(frozen=True)
class GroundTruth:
    """Objects of one image: XYXY boxes float32 (g, 4), contiguous classes int64, flags bool (g,).

    ``size`` is (height, width) in pixels, ``(0, 0)`` where the record has none.
    """

    boxes: np.ndarray
    classes: np.ndarray
    difficult: np.ndarray
    crowd: np.ndarray
    size: tuple[int, int]

    @classmethod
    def from_record(
        cls, record: Mapping[str, Any], *, num_classes: int | None = None
    ) -> "GroundTruth":
        """Read an annotated detectron2 record; None for ``num_classes`` checks no class.

        Raises:
            ValueError: for a record without ``annotations`` or a class out of range.
        """
        name = record["image_id"]
        if "annotations" not in record:
            raise ValueError(
                f"record of image {name!r} has no annotations; evaluate on the annotated twin, "
                "named by evaluation_name in the metadata of the weak data set"
            )
        objects = record["annotations"]
        classes = np.array([entry["category_id"] for entry in objects], np.int64)
        if num_classes is not None and not np.isin(classes, np.arange(num_classes)).all():
            raise ValueError(
                f"image {name!r} has classes {sorted(set(classes.tolist()))}, expected contiguous "
                f"classes from 0 to {num_classes - 1}"
            )
        boxes = [
            BoxMode.convert(list(map(float, o["bbox"])), o["bbox_mode"], BoxMode.XYXY_ABS)
            for o in objects
        ]
        return cls(
            np.array(boxes, np.float32).reshape(-1, 4),
            classes,
            np.array([bool(o.get("difficult", 0)) for o in objects], bool),
            np.array([bool(o.get("iscrowd", 0)) for o in objects], bool),
            (int(record.get("height", 0)), int(record.get("width", 0))),
        )


def gather_by_image(
    part: Mapping[str, Any], image_ids: Sequence[str], *, distributed: bool
) -> dict[str, Any] | None:
    """Join the predictions of all ranks in the order of ``image_ids``; None off rank 0.

    Raises:
        ValueError: if two ranks hold the same image.
    """
    parts = [part]
    if distributed:
        comm.synchronize()
        parts = comm.gather(part, dst=0)
        if not comm.is_main_process():
            return None
    joined: dict[str, Any] = {}
    for key, value in itertools.chain.from_iterable(one.items() for one in parts):
        if key in joined:
            raise ValueError(
                f"image {key!r} was predicted by two ranks; use a sampler that gives each image "
                "to one rank"
            )
        joined[key] = value
    return {key: joined[key] for key in image_ids if key in joined}


def require_all(image_ids: Sequence[str], predicted: Collection[str]) -> None:
    """Raise ValueError if images of the split have no prediction; says how many and the first.

    A missing image would count as "nothing found" and lower every figure unnoticed.
    """
    missing = [image_id for image_id in image_ids if image_id not in predicted]
    if missing:
        raise ValueError(
            f"{len(missing)} of {len(image_ids)} images have no prediction, the first is "
            f"{missing[0]!r}; the loader must cover the whole split"
        )


class DetectionEvaluator(DatasetEvaluator):
    """Collects the detections of a split; a subclass turns them into figures in ``compute``.

    ``records`` give image ids and their order. Ids are compared as strings. ``process`` refuses
    an id outside the split, an id seen before and a class out of range at once, not after hours
    of inference.
    """

    def __init__(
        self,
        records: Sequence[Mapping[str, Any]],
        class_names: Sequence[str],
        *,
        distributed: bool = True,
    ) -> None:
        self.class_names = list(class_names)
        self.image_ids = [str(record["image_id"]) for record in records]
        self._known = frozenset(self.image_ids)
        if len(self._known) != len(self.image_ids):
            twice = [i for n, i in enumerate(self.image_ids) if i in self.image_ids[:n]][:1]
            raise ValueError(f"image id {twice[0]!r} occurs twice in the split; ids must be unique")
        self._distributed = distributed
        self._part: dict[str, Detections] = {}

    def reset(self) -> None:
        """Forget all detections."""
        self._part = {}

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]
    ) -> None:
        """Keep ``instances`` (``pred_boxes``, ``scores``, ``pred_classes``) of each output."""
        for one, output in zip(inputs, outputs, strict=True):
            image_id = str(one["image_id"])
            if image_id not in self._known:
                raise ValueError(
                    f"image {image_id!r} is not among the {len(self._known)} images of the split "
                    "that is evaluated; DATASETS.TEST and its evaluation_name must agree"
                )
            if image_id in self._part:
                raise ValueError(f"image {image_id!r} was predicted twice; call reset() between")
            self._part[image_id] = self._detections(image_id, output["instances"])

    def _detections(self, image_id: str, instances: Any) -> Detections:
        instances = instances.to("cpu")
        classes = instances.pred_classes.numpy().astype(np.int64)
        if len(classes) and not (classes.min() >= 0 and classes.max() < len(self.class_names)):
            raise ValueError(
                f"detections of image {image_id!r} have classes up to {classes.max()}, the data "
                f"set has {len(self.class_names)}; check MODEL.ROI_HEADS.NUM_CLASSES"
            )
        scores = instances.scores.detach().numpy().astype(np.float32)
        boxes = instances.pred_boxes.tensor.detach().numpy().astype(np.float32)
        if not (np.isfinite(scores).all() and np.isfinite(boxes).all()):
            raise ValueError(f"detections of image {image_id!r} have values that are not finite")
        return Detections(boxes.reshape(-1, 4), scores, classes)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """Figures of the whole split in percent on rank 0, an empty dict on other ranks."""
        detections = gather_by_image(self._part, self.image_ids, distributed=self._distributed)
        if detections is None:
            return {}
        require_all(self.image_ids, detections)
        return self.compute(detections)

    def compute(self, detections: Mapping[str, Detections]) -> dict[str, dict[str, float]]:
        """Turn detections by image id into ``{task: {metric: value}}``."""
        raise NotImplementedError
