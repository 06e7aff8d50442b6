"""The evaluators of a data set, chosen by its metadata."""

import logging
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import META_ARCH_REGISTRY

from weaksam_d2.artifacts import CategoryMap, LabelSpace
from weaksam_d2.evaluation.coco import CocoBoxEvaluator
from weaksam_d2.evaluation.corloc import CorLocEvaluator
from weaksam_d2.evaluation.detections_writer import DetectionsWriter
from weaksam_d2.evaluation.exclusion import ExcludingEvaluator, read_image_ids
from weaksam_d2.evaluation.label_truth import truth_reader
from weaksam_d2.evaluation.masks import MaskEvaluator
from weaksam_d2.evaluation.multilabel import MultilabelEvaluator
from weaksam_d2.evaluation.sem_seg import WSSSEvaluator
from weaksam_d2.evaluation.voc import WeakVOCEvaluator

__all__ = ["build_evaluator", "build_mask_evaluator"]

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
        *_coco(cfg, split, task="coco_bbox"),
    ]


def _coco(cfg: CfgNode, split: _Split, task: str = "bbox") -> list[DatasetEvaluator]:
    return [
        CocoBoxEvaluator(
            split.records,
            split.class_names,
            task=task,
            library=cfg.TEST.COCO_EVAL,
            bootstrap=cfg.TEST.BOOTSTRAP,
        )
    ]


_BUILDERS: Mapping[str, Callable[[CfgNode, _Split], list[DatasetEvaluator]]] = {
    "voc": _voc,
    "coco": _coco,
}

# The architectures whose outputs are label maps, each with when they are.
_SEGMENTERS: Mapping[str, Callable[[CfgNode], bool]] = {
    "SemanticSegmentor": lambda cfg: True,
    "Mask2Former": lambda cfg: bool(cfg.MODEL.MASK2FORMER.TASK == "semantic"),
}


def classifies_images(cfg: CfgNode) -> bool:
    """Whether the model gives tags: ``ImageClassifier``, or one that says so of itself.

    Such a meta architecture has the attribute ``classifies_images``, true.
    """
    name = cfg.MODEL.META_ARCHITECTURE
    known = META_ARCH_REGISTRY.get(name) if name in META_ARCH_REGISTRY else None
    return name == "ImageClassifier" or bool(getattr(known, "classifies_images", False))


def build_evaluator(cfg: CfgNode, dataset_name: str, output_dir: str | Path) -> DatasetEvaluator:
    """Build the evaluators of a registered data set.

    A weak name is evaluated on the annotated twin that its metadata names in
    ``evaluation_name``. ``evaluator_type`` "voc" gives VOC AP (``bbox``) and COCO AP
    (``coco_bbox``), "coco" COCO AP (``bbox``), both CorLoc (``corloc``) and, of a detector with
    masks, mask AP (``segm``) where there are true masks; "none" no figure. In all
    cases detections go to ``detections.json`` in ``output_dir``. A classifier
    (``MODEL.META_ARCHITECTURE`` "ImageClassifier") gets tag mAP (``tags``) instead, and a
    segmenter mIoU (``sem_seg``) on the set that ``sem_seg_evaluation_name`` names; its label maps
    go to ``labels`` in ``output_dir``.

    With ``MODEL.WSOD.TEST_LABEL_FILTER`` detections know the tags of their image; AP of such
    detections is refused, CorLoc remains. Images that the file ``TEST.EXCLUDE_IDS`` lists are in
    ``detections.json`` and in no figure; how many they were is the task ``images``, which ones
    the file ``excluded_ids.txt`` in ``output_dir``.

    Raises:
        ValueError: for another evaluator type.
    """
    if _SEGMENTERS.get(cfg.MODEL.META_ARCHITECTURE, lambda _: False)(cfg):
        return _label_evaluator(cfg, dataset_name, Path(output_dir))
    metadata = MetadataCatalog.get(dataset_name)
    kind = metadata.get("evaluator_type", "none")
    if kind != "none" and kind not in _BUILDERS:
        raise ValueError(
            f"evaluator_type of {dataset_name!r} is {kind!r}, expected one of "
            f"{sorted([*_BUILDERS, 'none'])}"
        )
    records = DatasetCatalog.get(dataset_name)
    output, excluded = Path(output_dir), read_image_ids(cfg.TEST.EXCLUDE_IDS)
    remaining = [record for record in records if str(record["image_id"]) not in excluded]
    if classifies_images(cfg):
        figures: list[DatasetEvaluator] = [MultilabelEvaluator(remaining, metadata.thing_classes)]
    else:
        figures = _detection_figures(cfg, kind, dataset_name, excluded)
    if cfg.TEST.EXCLUDE_IDS and figures:
        left_out = [str(r["image_id"]) for r in records if str(r["image_id"]) in excluded]
        figures = [ExcludingEvaluator(figures, left_out, total=len(records), folder=output)]
    if classifies_images(cfg):
        return figures[0]
    categories = CategoryMap.from_metadata(metadata)
    return DatasetEvaluators(
        [*figures, DetectionsWriter(records, categories, output / "detections.json")]
    )


def _label_evaluator(cfg: CfgNode, dataset_name: str, output: Path) -> DatasetEvaluator:
    metadata = MetadataCatalog.get(dataset_name)
    space = LabelSpace.from_metadata(dataset_name, metadata)
    image_ids = [str(record["image_id"]) for record in DatasetCatalog.get(dataset_name)]
    excluded = read_image_ids(cfg.TEST.EXCLUDE_IDS)
    arguments: dict[str, Any] = {"output_dir": output, "bootstrap": cfg.TEST.BOOTSTRAP}
    named = metadata.get("sem_seg_evaluation_name", "")
    if not named and metadata.get("evaluator_type", "none") == "none":
        logger.info("%r has no true label maps: mIoU is not measured", dataset_name)
        return WSSSEvaluator(image_ids, space, **arguments)
    truth = truth_reader(dataset_name)
    space.check_same(truth.space, f"data set {truth.name!r}")
    counted = [image_id for image_id in truth.image_ids if image_id not in excluded]
    logger.info("label maps are compared with %d of %r", len(counted), truth.name)
    evaluator = WSSSEvaluator(image_ids, space, truth=truth, truth_ids=counted, **arguments)
    if not cfg.TEST.EXCLUDE_IDS:
        return evaluator
    left_out = [image_id for image_id in image_ids if image_id in excluded]
    # The label maps of all images are written, so it does not stand between.
    counts = ExcludingEvaluator([], left_out, total=len(image_ids), folder=output)
    return DatasetEvaluators([evaluator, counts])


def _detection_figures(
    cfg: CfgNode, kind: str, dataset_name: str, excluded: Set[str]
) -> list[DatasetEvaluator]:
    if kind == "none":
        return []
    split = _annotated_split(dataset_name, excluded)
    evaluators: list[DatasetEvaluator] = []
    if cfg.MODEL.WSOD.TEST_LABEL_FILTER:
        logger.info("AP of detections filtered by tags is not computed, only CorLoc")
    else:
        evaluators += _BUILDERS[kind](cfg, split)
        masks = build_mask_evaluator(cfg, dataset_name, excluded) if cfg.MODEL.MASK_ON else None
        evaluators += [masks] if masks is not None else []
    corloc = CorLocEvaluator(split.records, split.class_names, bootstrap=cfg.TEST.BOOTSTRAP)
    return [*evaluators, corloc]


def build_mask_evaluator(
    cfg: CfgNode, dataset_name: str, excluded: Set[str] = frozenset()
) -> MaskEvaluator | None:
    """The evaluator of masks (``segm``) of a data set; None if nobody has outlined its objects.

    True masks are those of ``mask_evaluation_name`` in the metadata, else of the annotated twin.
    """
    metadata = MetadataCatalog.get(dataset_name)
    name = metadata.get("mask_evaluation_name", "") or metadata.get("evaluation_name", "")
    records = DatasetCatalog.get(name) if name else []
    objects = [row for record in records for row in record.get("annotations", ())]
    if not any(row.get("segmentation") for row in objects):
        logger.info("%r has no true masks: mask AP is not measured", dataset_name)
        return None
    kind = MetadataCatalog.get(name).get("mask_truth", "")
    logger.info("masks are compared with those of %r%s", name, f" ({kind})" if kind else "")
    return MaskEvaluator(
        [record for record in records if str(record["image_id"]) not in excluded],
        metadata.thing_classes,
        ious=cfg.TEST.MASK_IOUS,
        metric=cfg.TEST.MASK_EVAL,
        library=cfg.TEST.COCO_EVAL,
        bootstrap=cfg.TEST.BOOTSTRAP,
    )


def _annotated_split(dataset_name: str, excluded: Set[str]) -> _Split:
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
    records = [r for r in DatasetCatalog.get(name) if str(r["image_id"]) not in excluded]
    return _Split(records, classes, None if year is None else int(year))
