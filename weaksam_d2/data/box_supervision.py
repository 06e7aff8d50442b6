"""Mixed supervision: the few images that have boxes, by a mapper of their own."""

import math
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.data.datasets.registration import refuse_weak
from weaksam_d2.data.image_labels import image_labels
from weaksam_d2.data.stored_proposals import find_stores, name_store
from weaksam_d2.data.weak_mapper import WeakDatasetMapper

__all__ = [
    "BoxSupervisionMapper",
    "boxed_count",
    "boxed_records",
    "describe_boxes",
    "train_proposal_files",
]

Records = list[dict[str, Any]]
_KEYS = ("file_name", "height", "width")
_TRUTH = "true_objects"


class BoxSupervisionMapper(WeakDatasetMapper):
    """Image, proposals, classes and true boxes of a fully labelled image.

    Adds ``full_instances`` (``Instances`` with ``gt_boxes`` in pixels of the resized image and
    ``gt_classes``) to what :class:`WeakDatasetMapper` gives, which itself refuses boxes. Not in
    the registry: only ``DATASETS.BOXES_TRAIN`` leads here. extras.md, Sec. 6.
    """

    def __call__(self, dataset_dict: dict[str, Any]) -> dict[str, Any]:
        """Map a record of :func:`boxed_records`; raises as :class:`WeakDatasetMapper`."""
        record = dict(dataset_dict)
        record[_TRUTH] = record.pop("annotations")
        return super().__call__(record)

    def map_image(self, record: dict[str, Any]) -> dict[str, Any]:
        """Transform image, proposals and boxes alike."""
        record["annotations"] = record.pop(_TRUTH)
        mapped = super().map_image(record)
        mapped["full_instances"] = mapped.pop("instances")
        return mapped


def boxed_count(cfg: Any) -> int:
    """Fully labelled images in a batch of ``SOLVER.IMS_PER_BATCH``: 0, or from 1 to all but one.

    Raises:
        ValueError: keys that contradict each other.
    """
    names, fraction = tuple(cfg.DATASETS.BOXES_TRAIN), float(cfg.DATALOADER.BOXES_FRACTION)
    if bool(names) != (fraction > 0) or not 0 <= fraction < 1:
        raise ValueError(
            f"DATASETS.BOXES_TRAIN is {names} and DATALOADER.BOXES_FRACTION {fraction}; give data "
            "sets with boxes and a share in (0, 1), for example 0.25, or neither (() and 0.0)"
        )
    if not names:
        return 0
    if cfg.INPUT.MAPPER_NAME != "WeakDatasetMapper":
        raise ValueError(
            f"DATASETS.BOXES_TRAIN goes with INPUT.MAPPER_NAME WeakDatasetMapper (WSODRCNN), not "
            f"with {cfg.INPUT.MAPPER_NAME!r}"
        )
    batch = int(cfg.SOLVER.IMS_PER_BATCH)
    if batch < 2:
        raise ValueError(
            f"SOLVER.IMS_PER_BATCH is {batch}; with DATASETS.BOXES_TRAIN a batch holds at least "
            "one image of each kind: set it to 2 or more"
        )
    return min(max(1, math.floor(fraction * batch + 0.5)), batch - 1)


def boxed_records(cfg: Any) -> Records:
    """Records of ``DATASETS.BOXES_TRAIN`` with classes, ``annotations`` and proposals.

    Crowd regions do not count, difficult objects only if the data set counts them in its tags.
    The proposals are in the files of ``DATASETS.PROPOSAL_FILES_TRAIN`` that follow those of
    ``DATASETS.TRAIN``, one for each set; without further files each image is looked up in them.

    Raises:
        KeyError: an unknown data set, or an image without proposals. ValueError: a weak set, or
        another number of proposal files.
    """
    names = cfg.DATASETS.BOXES_TRAIN
    parts = [_annotated(name) for name in names]
    files = list(cfg.DATASETS.PROPOSAL_FILES_TRAIN)
    count = len(cfg.DATASETS.TRAIN)
    if len(files) == count + len(names):
        pairs = zip(parts, files[count:], strict=True)
        return [record for part, file in pairs for record in name_store(part, file)]
    train_proposal_files(cfg)
    return [record for part in parts for record in find_stores(part, files)]


def train_proposal_files(cfg: Any) -> list[str]:
    """The files of ``DATASETS.PROPOSAL_FILES_TRAIN`` that belong to ``DATASETS.TRAIN``.

    Raises:
        ValueError: their number fits neither the sets of TRAIN nor those with ``BOXES_TRAIN``.
    """
    names, boxes = tuple(cfg.DATASETS.TRAIN), tuple(cfg.DATASETS.BOXES_TRAIN)
    files = list(cfg.DATASETS.PROPOSAL_FILES_TRAIN)
    if len(files) not in (len(names), len(names) + len(boxes)):
        further = f" and may have one for each of DATASETS.BOXES_TRAIN {boxes}" if boxes else ""
        raise ValueError(
            "MODEL.LOAD_PROPOSALS needs one of DATASETS.PROPOSAL_FILES_TRAIN for each of "
            f"DATASETS.TRAIN{further}: got {len(files)} files for {names}"
        )
    return files[: len(names)]


def describe_boxes(cfg: Any) -> dict[str, Any]:
    """Which images of a mixed training have boxes, and the label of every figure made from it.

    ``{"label": "25% boxes", "count": …, "images": …, "datasets": […], "ids": […]}``; ``images``
    are all training images, one with tags and boxes counts once. extras.md, Sec. 6.
    """
    ids = [r["image_id"] for name in cfg.DATASETS.BOXES_TRAIN for r in _annotated(name)]
    tagged = {str(r["image_id"]) for name in cfg.DATASETS.TRAIN for r in DatasetCatalog.get(name)}
    count, images = len(set(ids)), len(tagged | set(ids))
    return {
        "label": f"{100 * count / images:.3g}% boxes",
        "count": count,
        "images": images,
        "datasets": list(cfg.DATASETS.BOXES_TRAIN),
        "ids": ids,
    }


def _annotated(name: str) -> Records:
    refuse_weak(name)
    difficult = bool(MetadataCatalog.get(name).get("difficult_in_labels", False))
    records = []
    for record in DatasetCatalog.get(name):
        objects = [
            annotation
            for annotation in record["annotations"]
            if not annotation.get("iscrowd", 0)
            and (difficult or not annotation.get("difficult", 0))
        ]
        records.append(
            {
                **{key: record[key] for key in _KEYS},
                "image_id": str(record["image_id"]),
                "image_labels": image_labels(objects, difficult_in_labels=True),
                "annotations": objects,
            }
        )
    return records
