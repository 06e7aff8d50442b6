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
from detectron2.data.build import load_proposals_into_dataset
from detectron2.data.samplers import InferenceSampler, TrainingSampler
from detectron2.structures import BoxMode

from weaksam_d2.artifacts import ProposalStore
from weaksam_d2.data.datasets.registration import require_split
from weaksam_d2.data.datasets.subset import register_subset
from weaksam_d2.data.datasets.tagged_folder import register_tagged_folder
from weaksam_d2.data.datasets.voc import register_voc_evaluation, register_voc_weak
from weaksam_d2.data.image_labels import validate_weak_records
from weaksam_d2.data.pseudo_gt import register_pseudo_gt_of
from weaksam_d2.data.weak_mapper import DATASET_MAPPER_REGISTRY, rank_logits

__all__ = ["build_test_loader", "build_train_loader", "prepare_datasets", "weak_records"]

logger = logging.getLogger(__name__)

Records = list[dict[str, Any]]


def prepare_datasets(cfg: Any) -> None:
    """Make the data sets of a config available; doing it twice changes nothing.

    Imports ``DATASETS.REGISTER``, registers ``DATASETS.TAGGED`` and ``DATASETS.VOC`` (as
    ``name_weak`` and ``name_eval``) and every ``name@N`` of ``DATASETS.TRAIN`` and ``TEST``.

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
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
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
    name takes weak sets. The order is a function of ``SEED`` if that is set. Further arguments go
    to the PyTorch loader.

    Raises:
        ValueError: a weak set without pseudo ground truth under detectron2's mapper, an annotated
        one under a weak mapper, or a sampler that counts annotations of weak sets.
    """
    if cfg.INPUT.MAPPER_NAME:
        records = _weak_train_records(cfg)
        mapper = DATASET_MAPPER_REGISTRY.get(cfg.INPUT.MAPPER_NAME)(cfg, True)
    else:
        records = _annotated_train_records(cfg)
        mapper = DatasetMapper(cfg, True)
    # A seeded order of batches also needs seeded worker processes (they draw augmentations).
    seeded = cfg.SEED >= 0
    if seeded:
        loader_arguments.setdefault("seed", cfg.SEED)
    sampler = None
    if cfg.DATALOADER.SAMPLER_TRAIN == "TrainingSampler":
        sampler = TrainingSampler(len(records), seed=cfg.SEED if seeded else None)
    elif cfg.INPUT.MAPPER_NAME:
        raise ValueError(
            f"DATALOADER.SAMPLER_TRAIN '{cfg.DATALOADER.SAMPLER_TRAIN}' counts annotations, which "
            "a weak data set has not; expected 'TrainingSampler'"
        )
    return build_detection_train_loader(
        cfg, dataset=records, mapper=mapper, sampler=sampler, **loader_arguments
    )


def build_test_loader(cfg: Any, dataset_name: str) -> Any:
    """Build the loader that passes once over a data set, one image in a batch, in its order.

    The proposals of a set are the file of ``DATASETS.PROPOSAL_FILES_TEST`` at its place in
    ``DATASETS.TEST``.

    Raises:
        ValueError: no proposal file for the set; an annotated set under a weak mapper.
    """
    if cfg.INPUT.MAPPER_NAME:
        records = weak_records(dataset_name)
        mapper = DATASET_MAPPER_REGISTRY.get(cfg.INPUT.MAPPER_NAME)(cfg, False)
        attach: Callable[[Records, str], Records] = _name_store
    else:
        records = [
            {key: value for key, value in record.items() if key != "image_labels"}
            for record in get_detection_dataset_dicts(dataset_name, filter_empty=False)
        ]
        mapper = DatasetMapper(cfg, False)
        attach = _read_store
    if cfg.MODEL.LOAD_PROPOSALS:
        files = dict(zip(cfg.DATASETS.TEST, _proposal_files(cfg, "TEST"), strict=True))
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


def _weak_train_records(cfg: Any) -> Records:
    if cfg.DATASETS.PSEUDO_GT_TRAIN:
        raise ValueError(
            f"INPUT.MAPPER_NAME '{cfg.INPUT.MAPPER_NAME}' is weak, and DATASETS.PSEUDO_GT_TRAIN "
            "holds boxes; retraining needs INPUT.MAPPER_NAME ''"
        )
    parts = [weak_records(name) for name in _train_names(cfg)]
    _check_same_classes(cfg.DATASETS.TRAIN)
    if cfg.MODEL.LOAD_PROPOSALS:
        files = _proposal_files(cfg, "TRAIN")
        parts = [_name_store(part, file) for part, file in zip(parts, files, strict=True)]
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
            _refuse_weak(name)
    _check_same_classes(names)
    arguments = {"filter_empty": cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS}
    if cfg.MODEL.KEYPOINT_ON:
        arguments["min_keypoints"] = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    if not cfg.MODEL.LOAD_PROPOSALS:
        records: Records = get_detection_dataset_dicts(names, **arguments)
        return records
    files = _proposal_files(cfg, "TRAIN")
    parts = [
        _read_store(get_detection_dataset_dicts(name, **arguments), file)
        for name, file in zip(names, files, strict=True)
    ]
    return [record for part in parts for record in part]


def _train_names(cfg: Any) -> list[str]:
    if not cfg.DATASETS.TRAIN:
        raise ValueError("DATASETS.TRAIN is empty; name at least one data set")
    return list(cfg.DATASETS.TRAIN)


def _refuse_weak(name: str) -> None:
    if name not in DatasetCatalog.list():
        raise KeyError(f"data set '{name}' is not registered")
    first = DatasetCatalog.get(name)[:1]
    if first and "image_labels" in first[0] and "annotations" not in first[0]:
        twin = MetadataCatalog.get(name).get("evaluation_name", "")
        remedy = (
            f"its annotated twin is '{twin}' (metadata.evaluation_name)"
            if twin
            else ("it has no annotated twin (metadata.evaluation_name is empty)")
        )
        raise ValueError(
            f"data set '{name}' has image labels and no boxes, detectron2's mapper needs boxes: "
            f"{remedy}; or give its pseudo ground truth in DATASETS.PSEUDO_GT_TRAIN, or choose a "
            "weak INPUT.MAPPER_NAME"
        )


def _check_same_classes(names: Sequence[str]) -> None:
    lists = {name: tuple(MetadataCatalog.get(name).get("thing_classes", ())) for name in names}
    if len(set(lists.values())) > 1:
        raise ValueError(f"data sets trained together have different classes: {lists}")


def _proposal_files(cfg: Any, mode: str) -> list[str]:
    names, files = cfg.DATASETS[mode], cfg.DATASETS[f"PROPOSAL_FILES_{mode}"]
    if len(files) != len(names):
        raise ValueError(
            f"MODEL.LOAD_PROPOSALS needs one of DATASETS.PROPOSAL_FILES_{mode} for each of "
            f"DATASETS.{mode}: got {len(files)} files for {tuple(names)}"
        )
    return list(files)


def _name_store(records: Records, path: str) -> Records:
    """Write the store's path into the records (the mapper opens it), or read a pickle now."""
    if path.endswith(".pkl"):
        return _read_pickle(records, path)
    missing = _missing_ids(records, set(ProposalStore.open(Path(path)).image_ids))
    _require_ids(missing, path)
    return [{**record, "proposal_file": path} for record in records]


def _read_store(records: Records, path: str) -> Records:
    """Put the proposals into the records, as detectron2's own mapper expects them."""
    if path.endswith(".pkl"):
        return _read_pickle(records, path)
    store = ProposalStore.open(Path(path))
    _require_ids(_missing_ids(records, set(store.image_ids)), path)
    filled = []
    for record in records:
        boxes = store[str(record["image_id"])].boxes
        filled.append(
            {
                **record,
                "proposal_boxes": boxes.copy(),
                "proposal_bbox_mode": BoxMode.XYXY_ABS,
                "proposal_objectness_logits": rank_logits(len(boxes)),
            }
        )
    return filled


def _read_pickle(records: Records, path: str) -> Records:
    require_split(Path(path), "proposal file")
    try:
        return list(load_proposals_into_dataset([dict(record) for record in records], path))
    except KeyError as error:
        raise KeyError(f"proposal file '{path}' has no image or field {error}") from error


def _missing_ids(records: Records, known: set[str]) -> list[str]:
    return [str(r["image_id"]) for r in records if str(r["image_id"]) not in known]


def _require_ids(missing: Sequence[str], path: str) -> None:
    if missing:
        raise KeyError(
            f"{len(missing)} images are not in the proposal store '{path}', for example "
            f"{list(missing[:3])}; generate proposals for this data set"
        )
