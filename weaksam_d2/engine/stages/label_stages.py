"""The stage that makes semantic pseudo labels, as the tool and the pipeline run it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import (
    LabelSpace,
    RunManifest,
    SemSegLabelsWriter,
    merge_sem_seg_labels,
)
from weaksam_d2.data import weak_records
from weaksam_d2.data.label_sources import LABEL_SOURCE_REGISTRY, LabelSource, generate_labels
from weaksam_d2.engine.stages.image_stages import Placement, build_once
from weaksam_d2.engine.stages.parts import run_parts
from weaksam_d2.engine.stages.stage import (
    Records,
    StageRequest,
    describe_records,
)

__all__ = ["labels_request", "labels_stage"]


def labels_request(
    cfg: Any, dataset: str, inputs: Mapping[str, Path], place: Placement
) -> StageRequest:
    """What the stage is about to make: the keys of ``WEAKSAM.LABELS`` and of its source.

    Raises:
        KeyError: no such label source, data set or input.
    """
    source = LABEL_SOURCE_REGISTRY.get(cfg.WEAKSAM.LABELS.SOURCE)
    described = describe_records(dataset, weak_records(dataset))
    files = sorted(inputs.items())
    if hasattr(source, "weight_files"):
        files += source.weight_files(cfg)
    return place.request("labels", cfg, described, files, uses=[source])


def labels_stage(
    cfg: Any, dataset: str, inputs: Mapping[str, Path], place: Placement
) -> RunManifest | None:
    """Semantic pseudo labels of every image of a weak data set, by the source of the config.

    inputs: "input" and "masks", what the command line names; the source says which it needs.
    """
    records = weak_records(dataset)
    request = labels_request(cfg, dataset, inputs, place)
    space = LabelSpace.from_metadata(dataset, MetadataCatalog.get(dataset))
    registered = LABEL_SOURCE_REGISTRY.get(cfg.WEAKSAM.LABELS.SOURCE)
    source: Any = build_once(lambda: registered(cfg, dict(inputs), space))
    bar = place.progress(f"{cfg.WEAKSAM.LABELS.SOURCE} labels", records)

    def process(part: Records, path: Path, manifest: RunManifest) -> None:
        built: LabelSource = source()
        with SemSegLabelsWriter(
            path,
            space=space,
            system=built.system,
            base=built.base,
            supervision=built.supervision,
            resume=manifest.identity(),
        ) as writer:
            writer.manifest = manifest
            summary = generate_labels(part, built, writer=writer, on_progress=bar.update)
            manifest.counts = summary.counts()

    if place.dispatch is None and not (place.output / "manifest.json").exists():
        source()  # what is wrong with its settings is told before a folder is made for them
    manifest = run_parts(request, records, process, merge_sem_seg_labels, bar)
    bar.close()
    return manifest
