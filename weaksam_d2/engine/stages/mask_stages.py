"""The stages that give boxes their masks: pseudo boxes to train on, detections as a baseline."""

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import (
    CategoryMap,
    ProposalStore,
    PseudoGroundTruth,
    RunManifest,
    merge_detection_folders,
    merge_pseudo_gt_folders,
    read_detections,
    read_pseudo_gt,
    sha256_file,
    write_detection_folder,
    write_json,
    write_pseudo_gt_folder,
)
from weaksam_d2.data import weak_records
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.parts import run_parts
from weaksam_d2.engine.stages.stage import Records, StageResult, describe_records, run_stage
from weaksam_d2.engine.training.trainer import flat_results
from weaksam_d2.evaluation import build_mask_evaluator, read_image_ids
from weaksam_d2.pseudo_gt import (
    MaskCounts,
    MaskSettings,
    build_mask_settings,
    check_pseudo_boxes,
    generate_masks,
    part_of,
)
from weaksam_d2.sam import build_sam_backend, sam_weights

__all__ = ["detection_masks_stage", "instance_masks_stage", "mask_figures_stage"]

Rows = Mapping[str, Sequence[Mapping[str, Any]]]
Inputs = list[tuple[str, Path]]


def instance_masks_stage(
    cfg: Any, dataset: str, source: Path, place: Placement, *, proposals: Path | None = None
) -> RunManifest | None:
    """``pseudo_gt.json`` with a mask for every box of the one at ``source``.

    The images are those of the data set that the file lists. ``proposals``: a store whose masks
    are taken where it has the box (``WEAKSAM.INSTANCE_MASKS.REUSE_STORED``).

    Raises:
        ValueError: boxes without a score, or a file of another data set. weaksam.md, Sec. 8.1.
    """
    truth = read_pseudo_gt(source)
    check_pseudo_boxes(truth, source)
    records = _records(dataset, {str(image["id"]) for image in truth.images}, source)
    settings, rows = build_mask_settings(cfg), _by_image(truth.annotations)
    inputs, stored = _inputs(cfg, ("pseudo_gt", source), proposals)
    request = place.request("instance_masks", cfg, describe_records(dataset, records), inputs)
    origin = {"pseudo_gt_sha256": sha256_file(source), **settings.parameters()}
    info = {**truth.info, "weaksam": {**truth.info["weaksam"], "masks": origin}}
    bar = place.progress("masks", records)
    make = _maker(cfg, rows, settings, stored, bar.update)

    def process(part: Records, path: Path, manifest: RunManifest) -> None:
        own = part_of(truth, part)
        annotations = make(part, manifest)
        new = PseudoGroundTruth(own.images, annotations, truth.categories, info)
        write_pseudo_gt_folder(path, new, manifest)

    manifest = run_parts(request, records, process, merge_pseudo_gt_folders, bar)
    bar.close()
    return manifest


def detection_masks_stage(
    cfg: Any, dataset: str, source: Path, place: Placement, *, proposals: Path | None = None
) -> RunManifest | None:
    """``detections.json`` with a mask for every detected box: masks without a mask head.

    Arguments as :func:`instance_masks_stage`; ``source`` is a file of detections.
    """
    rows = _by_image(read_detections(source))
    records = weak_records(dataset)
    _records(dataset, set(rows), source)
    settings = build_mask_settings(cfg)
    inputs, stored = _inputs(cfg, ("detections", source), proposals)
    request = place.request("instance_masks", cfg, describe_records(dataset, records), inputs)
    bar = place.progress("masks", records)
    make = _maker(cfg, rows, settings, stored, bar.update)

    def process(part: Records, path: Path, manifest: RunManifest) -> None:
        write_detection_folder(path, make(part, manifest), manifest)

    manifest = run_parts(request, records, process, merge_detection_folders, bar)
    bar.close()
    return manifest


def mask_figures_stage(cfg: Any, dataset: str, source: Path, place: Placement) -> RunManifest:
    """``results.json``: mask AP of a file of detections with masks, on the true masks of a set.

    Images that the file ``TEST.EXCLUDE_IDS`` lists do not count.

    Raises:
        ValueError: the data set has no true masks, or detections have none.
    """
    inputs: Inputs = [("masks", source)]
    if cfg.TEST.EXCLUDE_IDS:
        inputs.append(("excluded_ids", Path(cfg.TEST.EXCLUDE_IDS)))
    described = describe_records(dataset, weak_records(dataset))
    request = place.request("mask_figures", cfg, described, inputs)

    def body(output: Path, resume: bool) -> StageResult:
        evaluator = build_mask_evaluator(cfg, dataset, read_image_ids(cfg.TEST.EXCLUDE_IDS))
        if evaluator is None:
            raise ValueError(f"data set '{dataset}' has no true masks to evaluate on")
        categories = CategoryMap.from_metadata(MetadataCatalog.get(dataset))
        detections = read_detections(source)
        results = evaluator.evaluate_rows(detections, categories)
        write_json(output / "results.json", flat_results({dataset: results}))
        return StageResult(counts={"detections": len(detections)})

    return run_stage(request, body)


def _maker(
    cfg: Any,
    rows: Rows,
    settings: MaskSettings,
    stored: ProposalStore | None,
    on_progress: Callable[[int], Any],
) -> Callable[[Records, RunManifest], list[dict[str, Any]]]:
    """The function that makes the rows of some records; SAM is built when it is first needed."""
    backend = cache(lambda: build_sam_backend(cfg))

    def make(part: Records, manifest: RunManifest) -> list[dict[str, Any]]:
        counts = MaskCounts()
        made = list(
            generate_masks(
                part,
                rows,
                backend,
                settings=settings,
                counts=counts,
                stored=stored,
                on_progress=on_progress,
            )
        )
        manifest.counts = counts.counts()
        return made

    return make


def _inputs(
    cfg: Any, source: tuple[str, Path], proposals: Path | None
) -> tuple[Inputs, ProposalStore | None]:
    inputs: Inputs = [source]
    weights = sam_weights(cfg)
    if weights is not None:
        inputs.append(("sam", weights))
    reuse = bool(cfg.WEAKSAM.INSTANCE_MASKS.REUSE_STORED)
    if reuse != (proposals is not None):
        raise ValueError(
            f"WEAKSAM.INSTANCE_MASKS.REUSE_STORED is {reuse} and there is "
            f"{'a' if proposals else 'no'} folder of proposals (--proposals); give both or neither"
        )
    if proposals is None:
        return inputs, None
    inputs.append(("proposals", proposals))
    return inputs, ProposalStore.open(proposals)


def _records(dataset: str, image_ids: set[str], source: Path) -> list[dict[str, Any]]:
    """Records of those images, in the order of the data set."""
    records = weak_records(dataset)
    foreign = sorted(image_ids - {record["image_id"] for record in records})
    if foreign:
        raise ValueError(
            f"'{source}' has {len(foreign)} images that data set '{dataset}' has not, for example "
            f"{foreign[:3]}; name the data set that the boxes were made on"
        )
    return [record for record in records if record["image_id"] in image_ids]


def _by_image(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    grouped: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(str(row["image_id"]), []).append(row)
    return grouped
