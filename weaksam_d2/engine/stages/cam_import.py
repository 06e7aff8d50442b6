"""Import of official activation map files: data set, parts and manifest around ``cams``."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import CamStoreWriter, LabelSpace, RunManifest, merge_cam_stores
from weaksam_d2.cams import OfficialCams, find_official_files, import_official_cams
from weaksam_d2.data import weak_records
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.parts import run_parts
from weaksam_d2.engine.stages.stage import Records, describe_records

__all__ = ["import_cams_stage"]


def import_cams_stage(
    cfg: Any, dataset: str, folder: Path, settings: OfficialCams, place: Placement
) -> RunManifest | None:
    """The activation maps that an official code wrote for a weak data set, as a store.

    The manifest has the folder's content by its hash and the settings, nothing of ``cfg``.

    Raises:
        KeyError: no such data set. ForeignFileError, UnsafePickleError: see
            ``import_official_cams``.
    """
    records = weak_records(dataset)
    metadata = MetadataCatalog.get(dataset)
    space = LabelSpace.from_metadata(dataset, metadata)
    files = find_official_files(folder, records, settings)
    described = {**describe_records(dataset, records), "gate": settings.gate}
    request = place.request("cams", cfg, described, [("official_maps", folder)])
    request = replace(request, config={f"import.{k}": v for k, v in asdict(settings).items()})
    bar = place.progress("import", records)

    def process(part: Records, path: Path, manifest: RunManifest) -> None:
        with CamStoreWriter(
            path,
            class_names=metadata.thing_classes,
            network=settings.layout,
            scales=(1.0,),
            normalize=settings.normalize,
        ) as writer:
            writer.manifest = manifest
            summary = import_official_cams(
                part, files.paths, settings, space=space, writer=writer, on_progress=bar.update
            )
            manifest.counts = summary.counts()

    manifest = run_parts(request, records, process, merge_cam_stores, bar)
    bar.close()
    return manifest
