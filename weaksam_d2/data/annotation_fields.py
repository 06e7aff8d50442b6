"""Numbers of annotations that travel with their boxes into the training targets."""

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.config import configurable
from detectron2.data import DatasetMapper
from detectron2.structures import Instances

__all__ = ["AnnotationFieldsMapper", "build_annotated_mapper"]


class AnnotationFieldsMapper(DatasetMapper):  # type: ignore[misc]
    """detectron2's mapper; number ``key`` of an annotation becomes ``gt_<key>`` of its target.

    Detectron2's heads copy every ``gt_*`` field of the targets to the regions they sample.
    """

    @configurable
    def __init__(self, is_train: bool, *, fields: Sequence[str] = (), **kwargs: Any) -> None:
        """Take the parent's arguments and the keys of annotations to take along."""
        super().__init__(is_train, **kwargs)
        self._fields = tuple(fields)

    @classmethod
    def from_config(cls, cfg: Any, is_train: bool = True) -> dict[str, Any]:
        """As the parent; the field is ``MODEL.ROI_DROP.SCORE_WEIGHT``, if that is set."""
        args: dict[str, Any] = super().from_config(cfg, is_train)
        weight = cfg.MODEL.ROI_DROP.SCORE_WEIGHT
        return {**args, "fields": (weight,) if weight else ()}

    def _transform_annotations(
        self, dataset_dict: dict[str, Any], transforms: Any, image_shape: tuple[int, int]
    ) -> None:
        """As the parent, one annotation after the other: some of them end outside the image."""
        annotations = dataset_dict.pop("annotations")
        targets = []
        for annotation in annotations:
            missing = [key for key in self._fields if key not in annotation]
            if missing and not annotation.get("iscrowd", 0):
                raise ValueError(
                    f"an annotation of image '{dataset_dict.get('image_id')}' has no {missing}; "
                    "generate the pseudo ground truth with this package, or set "
                    "MODEL.ROI_DROP.SCORE_WEIGHT to ''"
                )
            target = self._transformed(dataset_dict, [annotation], transforms, image_shape)
            if len(target):
                self._set_fields(target, [annotation])
                targets.append(target)
        if not targets:
            # No target at all: without masks too, whether or not there were annotations.
            targets.append(self._transformed(dataset_dict, [], transforms, image_shape))
            self._set_fields(targets[0], [])
        dataset_dict["instances"] = Instances.cat(targets)

    def _transformed(
        self,
        dataset_dict: dict[str, Any],
        annotations: list[dict[str, Any]],
        transforms: Any,
        image_shape: tuple[int, int],
    ) -> Instances:
        one = {**dataset_dict, "annotations": annotations}
        super()._transform_annotations(one, transforms, image_shape)
        return one["instances"]

    def _set_fields(self, target: Instances, annotations: list[dict[str, Any]]) -> None:
        for key in self._fields:
            values = [float(annotation[key]) for annotation in annotations]
            target.set(f"gt_{key}", torch.tensor(values, dtype=torch.float32))


def build_annotated_mapper(cfg: Any) -> DatasetMapper:
    """The training mapper of data with boxes: detectron2's, unless losses are weighted by scores.

    Source: extras.md, Sec. 4 (soft-score weighting).
    """
    kind = AnnotationFieldsMapper if cfg.MODEL.ROI_DROP.SCORE_WEIGHT else DatasetMapper
    return kind(cfg, True)
