"""Data loaders and data sets from a config."""

import importlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from detectron2.data.common import DatasetFromList, MapDataset
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from torch.utils.data import ConcatDataset

from weaksam_d2.data.annotation_fields import build_annotated_mapper
from weaksam_d2.data.box_supervision import (
    BoxSupervisionMapper,
    boxed_count,
    boxed_records,
    train_proposal_files,
)
from weaksam_d2.data.datasets.label_images import register_voc_labels
from weaksam_d2.data.datasets.registration import refuse_weak
from weaksam_d2.data.datasets.subset import register_subset
from weaksam_d2.data.datasets.tagged_folder import register_tagged_folder
from weaksam_d2.data.datasets.voc import (
    VOC_CLASSES,
    register_voc_evaluation,
    register_voc_weak,
)
from weaksam_d2.data.datasets.voc_masks import register_voc_masks
from weaksam_d2.data.image_labels import validate_weak_records
from weaksam_d2.data.pseudo_gt import register_pseudo_gt_of
from weaksam_d2.data.pseudo_labels import label_records, pseudo_label_sets
from weaksam_d2.data.samplers import (
    ComposedTrainingSampler,
    ResumableSampler,
    SeededDataset,
    build_train_sampler,
)
from weaksam_d2.data.sem_seg_mapper import reads_label_images
from weaksam_d2.data.stored_proposals import name_store, proposal_files, read_store
from weaksam_d2.data.weak_mapper import DATASET_MAPPER_REGISTRY

__all__ = [
    "build_test_loader",
    "build_train_loader",
    "prepare_datasets",
    "skip_iterations",
    "weak_records",
]

logger = logging.getLogger(__name__)

Records = list[dict[str, Any]]
_TEST_SECRETS = ("image_labels", "sem_seg_file_name")  # what no model needs to be tested


def prepare_datasets(cfg: Any) -> None:
    """Make the data sets of a config available; doing it twice changes nothing.

    Imports ``DATASETS.REGISTER``, registers ``DATASETS.TAGGED`` and ``DATASETS.VOC`` (as
    ``name_weak`` and ``name_eval``, where there are class masks also ``name_masks`` and
    ``name_labels``) and every ``name@N`` of ``DATASETS.TRAIN``, ``TEST`` and ``BOXES_TRAIN``.

    Raises:
        ValueError: an entry of the wrong form. ModuleNotFoundError: a module that is not there.
    """
    for module in cfg.DATASETS.REGISTER:
        importlib.import_module(module)
    for entry in cfg.DATASETS.TAGGED:
        _check_entry("TAGGED", entry, ("name", "image folder", "tags file"))
        register_tagged_folder(entry[0], image_root=entry[1], tags=entry[2])
    for entry in cfg.DATASETS.VOC:
        _check_entry("VOC", entry, ("name", "root", "split", "year", "classes"))
        _register_voc_pair(*entry)
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST, *cfg.DATASETS.BOXES_TRAIN):
        if "@" in name:
            register_subset(name)


def _check_entry(key: str, entry: Sequence[Any], fields: tuple[str, ...]) -> None:
    if isinstance(entry, str) or len(entry) != len(fields):
        raise ValueError(f"DATASETS.{key} holds {entry!r}; expected a tuple {fields}")


def _register_voc_pair(
    name: str, root: str, split: str, year: int, classes: Sequence[str] | str
) -> None:
    # Classes may come from a command line as one string.
    chosen = classes.replace(",", " ").split() if isinstance(classes, str) else list(classes)
    common: dict[str, Any] = {"root": root, "split": split, "year": year, "classes": chosen or None}
    register_voc_weak(f"{name}_weak", evaluation_name=f"{name}_eval", **common)
    register_voc_evaluation(f"{name}_eval", **common)
    if (Path(root) / "SegmentationClass").is_dir():
        register_voc_masks(f"{name}_masks", **common)
        MetadataCatalog.get(f"{name}_weak").set(mask_evaluation_name=f"{name}_masks")
        if set(chosen) <= set(VOC_CLASSES):  # the values of other classes are not known
            register_voc_labels(f"{name}_labels", **common)
            MetadataCatalog.get(f"{name}_weak").set(sem_seg_evaluation_name=f"{name}_labels")


def weak_records(name: str) -> Records:
    """Load a registered weak data set and check it; image ids are ``str``.

    Raises:
        KeyError: not registered. ValueError: see :func:`validate_weak_records`.
    """
    if name not in DatasetCatalog.list():
        raise KeyError(
            f"data set '{name}' is not registered; register it in a module that "
            "DATASETS.REGISTER (--register) names, or through DATASETS.TAGGED or DATASETS.VOC"
        )
    records = DatasetCatalog.get(name)
    return validate_weak_records(name, records, len(MetadataCatalog.get(name).thing_classes))


def build_train_loader(cfg: Any, **loader_arguments: Any) -> Any:
    """Build the training loader of ``DATASETS.TRAIN``, an endless iterable of lists of dicts.

    ``INPUT.MAPPER_NAME`` chooses the mapper and with it the kind of data: "" is detectron2's own
    with annotated sets (or the pseudo ground truth of ``DATASETS.PSEUDO_GT_TRAIN``), every other
    name takes weak sets, unless that mapper ``takes_annotations``. A mapper that ``takes_labels``
    has sets with label images (or the folders of ``DATASETS.PSEUDO_LABELS_TRAIN``). The order is
    a function of ``SEED`` if that is set. With ``SOLVER.EXACT_RESUME`` the samples are too,
    whatever the number of workers, and :func:`skip_iterations` works. With
    ``DATASETS.BOXES_TRAIN`` a batch ends with fully labelled images
    (:class:`BoxSupervisionMapper`). Further arguments go to the loader.

    Raises:
        ValueError: a weak set without pseudo ground truth under detectron2's mapper, an annotated
        one under a weak mapper, or a sampler that counts annotations of weak sets.
    """
    weak, mapper = _build_mapper(cfg, True)
    if _takes_labels(cfg):
        records = _label_train_records(cfg)
    else:
        records = _weak_train_records(cfg) if weak else _annotated_train_records(cfg)
    # A seeded order of batches also needs seeded worker processes (they draw augmentations).
    seed = cfg.SEED if cfg.SEED >= 0 else None
    loader_arguments.setdefault("seed", seed)
    sampler = build_train_sampler(cfg, records, seed=seed)
    _check_sampler(cfg, sampler)
    if sampler is None:
        return build_detection_train_loader(cfg, dataset=records, mapper=mapper, **loader_arguments)
    dataset: Any = MapDataset(DatasetFromList(records, copy=False), mapper)
    mixed = boxed_count(cfg) > 0
    if mixed:
        dataset, sampler = _with_boxes(cfg, dataset, sampler)
    if cfg.SOLVER.EXACT_RESUME:
        dataset, sampler = SeededDataset(dataset, cfg.SEED), ResumableSampler(sampler)
    # Grouping by aspect ratio keeps images back, so a batch is not what the sampler says.
    grouping = cfg.DATALOADER.ASPECT_RATIO_GROUPING and not (mixed or cfg.SOLVER.EXACT_RESUME)
    return build_detection_train_loader(
        dataset,
        mapper=None,
        sampler=sampler,
        total_batch_size=cfg.SOLVER.IMS_PER_BATCH,
        aspect_ratio_grouping=grouping,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        **loader_arguments,
    )


def _build_mapper(cfg: Any, is_train: bool) -> tuple[bool, Any]:
    """Whether the mapper of ``INPUT.MAPPER_NAME`` takes weak data sets, and the mapper.

    A registered mapper that takes annotated ones has the attribute ``takes_annotations = True``.
    """
    if cfg.INPUT.MAPPER_NAME:
        kind = DATASET_MAPPER_REGISTRY.get(cfg.INPUT.MAPPER_NAME)
        return not getattr(kind, "takes_annotations", False), kind(cfg, is_train)
    return False, build_annotated_mapper(cfg) if is_train else DatasetMapper(cfg, False)


def skip_iterations(cfg: Any, loader: Any, iterations: int) -> None:
    """Let a training loader of ``SOLVER.EXACT_RESUME`` begin after so many iterations."""
    samples = cfg.SOLVER.IMS_PER_BATCH * cfg.SOLVER.ACCUMULATION_STEPS
    loader.dataset.sampler.skip = iterations * samples


def _check_sampler(cfg: Any, sampler: Any) -> None:
    """Refuse what the exact mode and batches of two kinds cannot keep their promise with."""
    if cfg.SOLVER.EXACT_RESUME and cfg.SEED < 0:
        raise ValueError("SOLVER.EXACT_RESUME draws every sample from SEED; set it to 0 or more")
    if sampler is None and (cfg.SOLVER.EXACT_RESUME or boxed_count(cfg)):
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN '{cfg.DATALOADER.SAMPLER_TRAIN}' does not go with "
            "SOLVER.EXACT_RESUME or DATASETS.BOXES_TRAIN; use TrainingSampler, "
            "RepeatFactorTrainingSampler or one of the tag samplers"
        )


def _with_boxes(cfg: Any, tagged: Any, sampler: Any) -> tuple[Any, Any]:
    """Tagged images, then those of ``DATASETS.BOXES_TRAIN``, and the order of both."""
    records = boxed_records(cfg)
    _check_same_classes((*cfg.DATASETS.TRAIN, *cfg.DATASETS.BOXES_TRAIN))
    boxed = MapDataset(DatasetFromList(records, copy=False), BoxSupervisionMapper(cfg, True))
    # Not the seed of the tagged images: pools of one size would go in step.
    seed = cfg.SEED + 1 if cfg.SEED >= 0 else None
    composed = ComposedTrainingSampler(
        sampler,
        TrainingSampler(len(records), seed=seed),
        first_boxed=len(tagged),
        batch_size=cfg.SOLVER.IMS_PER_BATCH,
        num_boxed=boxed_count(cfg),
    )
    return ConcatDataset([tagged, boxed]), composed


def build_test_loader(cfg: Any, dataset_name: str) -> Any:
    """Build the loader that passes once over a data set, one image in a batch, in its order.

    The proposals of a set are the file of ``DATASETS.PROPOSAL_FILES_TEST`` at its place in
    ``DATASETS.TEST``.

    Raises:
        ValueError: no proposal file for the set; an annotated set under a weak mapper.
    """
    weak, mapper = _build_mapper(cfg, False)
    if weak:
        records = weak_records(dataset_name)
        attach: Callable[[Records, str], Records] = name_store
    else:
        records = [
            {key: value for key, value in record.items() if key not in _TEST_SECRETS}
            for record in get_detection_dataset_dicts(dataset_name, filter_empty=False)
        ]
        attach = read_store
    if cfg.MODEL.LOAD_PROPOSALS:
        files = dict(zip(cfg.DATASETS.TEST, proposal_files(cfg, "TEST"), strict=True))
        if dataset_name not in files:
            raise ValueError(
                f"data set '{dataset_name}' is not in DATASETS.TEST {cfg.DATASETS.TEST}, so it "
                "has no place in DATASETS.PROPOSAL_FILES_TEST"
            )
        records = attach(records, files[dataset_name])
    return build_detection_test_loader(
        records,
        mapper=mapper,
        sampler=InferenceSampler(len(records)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def _takes_labels(cfg: Any) -> bool:
    """Whether to train on label images; ValueError: there are some, and the mapper reads none."""
    takes = reads_label_images(cfg)
    if cfg.DATASETS.PSEUDO_LABELS_TRAIN and not takes:
        raise ValueError(
            "DATASETS.PSEUDO_LABELS_TRAIN holds label images, which INPUT.MAPPER_NAME "
            f"{cfg.INPUT.MAPPER_NAME!r} does not read; semantic segmentation needs 'SemSegMapper'"
        )
    return takes


def _label_train_records(cfg: Any) -> Records:
    names, folders = _train_names(cfg), cfg.DATASETS.PSEUDO_LABELS_TRAIN
    if cfg.DATASETS.PSEUDO_GT_TRAIN:
        raise ValueError(
            f"INPUT.MAPPER_NAME '{cfg.INPUT.MAPPER_NAME}' reads label images, and "
            "DATASETS.PSEUDO_GT_TRAIN holds boxes; name folders in DATASETS.PSEUDO_LABELS_TRAIN"
        )
    _check_same_classes(names)
    if folders:
        return label_records(pseudo_label_sets(names, folders))
    records = label_records(names)
    logger.warning("%s: training on true label images, which is full supervision", names)
    return records


def _weak_train_records(cfg: Any) -> Records:
    if cfg.DATASETS.PSEUDO_GT_TRAIN:
        raise ValueError(
            f"INPUT.MAPPER_NAME '{cfg.INPUT.MAPPER_NAME}' is weak, and DATASETS.PSEUDO_GT_TRAIN "
            "holds boxes; retraining needs INPUT.MAPPER_NAME ''"
        )
    parts = [weak_records(name) for name in _train_names(cfg)]
    _check_same_classes(cfg.DATASETS.TRAIN)
    if cfg.MODEL.LOAD_PROPOSALS:
        files = train_proposal_files(cfg)
        parts = [name_store(part, file) for part, file in zip(parts, files, strict=True)]
    return [record for part in parts for record in part]


def _annotated_train_records(cfg: Any) -> Records:
    names = _train_names(cfg)
    truths = cfg.DATASETS.PSEUDO_GT_TRAIN
    if truths:
        if len(truths) != len(names):
            raise ValueError(
                f"DATASETS.PSEUDO_GT_TRAIN has {len(truths)} files for the {len(names)} sets of "
                f"DATASETS.TRAIN {tuple(names)}; give one for each"
            )
        names = [register_pseudo_gt_of(n, f) for n, f in zip(names, truths, strict=True)]
    else:
        for name in names:
            refuse_weak(name)
    _check_same_classes(names)
    arguments = {"filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS}
    if cfg.MODEL.KEYPOINT_ON:
        arguments["min_keypoints"] = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    if not cfg.MODEL.LOAD_PROPOSALS:
        return _boxed_dicts(names, arguments)
    files = proposal_files(cfg, "TRAIN")
    parts = [
        read_store(_boxed_dicts([name], arguments), file)
        for name, file in zip(names, files, strict=True)
    ]
    return [record for part in parts for record in part]


def _boxed_dicts(names: list[str], arguments: dict[str, Any]) -> Records:
    """detectron2's records of annotated sets; it only asserts that some are left."""
    try:
        records: Records = get_detection_dataset_dicts(names, **arguments)
    except AssertionError as error:
        raise ValueError(
            f"there is nothing to train on in {names}: no image has a box. Look at the counts in "
            "the pseudo ground truth (info.weaksam.counts), and at the detections it is made of"
        ) from error
    return records


def _train_names(cfg: Any) -> list[str]:
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; name at least one data set")
    return list(cfg.DATASETS.TRAIN)


def _check_same_classes(names: Sequence[str]) -> None:
    lists = {name: tuple(MetadataCatalog.get(name).get("thing_classes", ())) for name in names}
    if len(set(lists.values())) > 1:
        raise ValueError(f"data sets trained together have different classes: {lists}")
