"""The evaluators of a data set, chosen by its metadata."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from weaksam_d2.artifacts import CategoryMap
from weaksam_d2.evaluation.coco import CocoBoxEvaluator
from weaksam_d2.evaluation.corloc import CorLocEvaluator
from weaksam_d2.evaluation.detections_writer import DetectionsWriter
from weaksam_d2.evaluation.multilabel import MultilabelEvaluator
from weaksam_d2.evaluation.voc import WeakVOCEvaluator

__all__ = ["build_evaluator"]

logger = logging.getLogger(__name__)

# The release and the VOC development kit of 2007 use eleven points; later years the area.
_ELEVEN_POINT_YEAR = 2007


@dataclass(frozen=True)
class _Split:
    """What a builder needs of the annotated twin of a data set."""

    records: Sequence[Mapping[str, Any]]
    class_names: Sequence[str]
    year: int | None


def _voc(cfg: CfgNode, split: _Split) -> list[DatasetEvaluator]:
    year_2007 = split.year == _ELEVEN_POINT_YEAR
    metric = cfg.TEST.VOC07_METRIC if year_2007 else cfg.TEST.VOC12_METRIC
    logger.info("AP50 of year %s uses the VOC metric %r", split.year, metric)
    return [
        WeakVOCEvaluator(
            split.records, split.class_names, metric=metric, bootstrap=cfg.TEST.BOOTSTRAP
        ),
        CocoBoxEvaluator(split.records, split.class_names, task="coco_bbox"),
    ]


def _coco(cfg: CfgNode, split: _Split) -> list[DatasetEvaluator]:
    return [CocoBoxEvaluator(split.records, split.class_names)]


_BUILDERS: Mapping[str, Callable[[CfgNode, _Split], list[DatasetEvaluator]]] = {
    "voc": _voc,
    "coco": _coco,
}


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str | Path) -> DatasetEvaluator:
    """Build the evaluators of a registered data set.

    A weak name is evaluated on the annotated twin that its metadata names in
    ``evaluation_name``. ``evaluator_type`` "voc" gives VOC AP (``bbox``) and COCO AP
    (``coco_bbox``), "coco" COCO AP (``bbox``), both CorLoc (``corloc``); "none" no figure. In all
    cases detections go to ``detections.json`` in ``output_dir``. A classifier
    (``MODEL.META_ARCHITECTURE`` "ImageClassifier") gets tag mAP (``tags``) instead.

    With ``MODEL.WSOD.TEST_LABEL_FILTER`` detections know the tags of their image; AP of such
    detections is refused, CorLoc remains.

    Raises:
        ValueError: for another evaluator type.
    """
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", "none")
    if kind != "none" and kind not in _BUILDERS:
        raise ValueError(
            f"evaluator_type of {dataset_name!r} is {kind!r}, expected one of "
            f"{sorted([*_BUILDERS, 'none'])}"
        )
    records = DatasetCatalog.get(dataset_name)
    if cfg.MODEL.META_ARCHITECTURE == "ImageClassifier":
        return MultilabelEvaluator(records, metadata.thing_classes)
    evaluators: list[DatasetEvaluator] = []
    if kind != "none":
        split = _annotated_split(dataset_name)
        if cfg.MODEL.WSOD.TEST_LABEL_FILTER:
            logger.info("AP of detections filtered by tags is not computed, only CorLoc")
        else:
            evaluators += _BUILDERS[kind](cfg, split)
        evaluators.append(
            CorLocEvaluator(split.records, split.class_names, bootstrap=cfg.TEST.BOOTSTRAP)
        )
    path = Path(output_dir) / "detections.json"
    evaluators.append(DetectionsWriter(records, CategoryMap.from_metadata(metadata), path))
    return DatasetEvaluators(evaluators)


def _annotated_split(dataset_name: str) -> _Split:
    metadata = MetadataCatalog.get(dataset_name)
    name = metadata.get("evaluation_name", "") or dataset_name
    twin = MetadataCatalog.get(name)
    classes = list(metadata.thing_classes)
    if list(twin.get("thing_classes", classes)) != classes:
        raise ValueError(
            f"{dataset_name!r} has classes {classes}, its evaluation set {name!r} has "
            f"{list(twin.thing_classes)}; register both with the same classes"
        )
    year = twin.get("year", metadata.get("year", None))
    return _Split(DatasetCatalog.get(name), classes, None if year is None else int(year))
