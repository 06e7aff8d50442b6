"""Folders that hold one COCO JSON file each, made part by part and joined."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts.coco_json import (
    PseudoGroundTruth,
    read_detections,
    read_pseudo_gt,
    write_detections,
    write_pseudo_gt,
)
from weaksam_d2.artifacts.io import ArtifactMismatchError, atomic_folder
from weaksam_d2.artifacts.manifest import RunManifest, list_outputs
from weaksam_d2.artifacts.pseudo_gt_writer import PseudoGTWriter
from weaksam_d2.artifacts.shards import merge_manifests

__all__ = [
    "DETECTIONS_NAME",
    "PSEUDO_GT_NAME",
    "merge_detection_folders",
    "merge_pseudo_gt_folders",
    "write_detection_folder",
    "write_pseudo_gt_folder",
]

PSEUDO_GT_NAME = "pseudo_gt.json"
DETECTIONS_NAME = "detections.json"


def write_pseudo_gt_folder(path: Path, truth: PseudoGroundTruth, manifest: RunManifest) -> None:
    """Write ``pseudo_gt.json`` and a manifest into a folder that appears when it is complete.

    Raises:
        FileExistsError: the folder exists. ValueError: as ``write_pseudo_gt``.
    """
    with atomic_folder(Path(path)) as folder:
        write_pseudo_gt(folder / PSEUDO_GT_NAME, truth)
        _write_manifest(folder, manifest)


def merge_pseudo_gt_folders(
    parts: Sequence[Path], output: Path, *, manifest: RunManifest | None = None
) -> None:
    """Join parts in order; the bytes are those of one part with all images.

    ``manifest`` defaults to the sum of the parts' own. Ids of annotations are numbered anew.

    Raises:
        ArtifactMismatchError: parts with other classes or of another source. ValueError: no parts,
        or none with a manifest.
    """
    if not parts:
        raise ValueError("there are no parts to merge")
    truths = [read_pseudo_gt(Path(part) / PSEUDO_GT_NAME) for part in parts]
    first = truths[0]
    for part, truth in zip(parts, truths, strict=True):
        if truth.categories != first.categories or _source(truth) != _source(first):
            raise ArtifactMismatchError(
                f"{part} is no part of the artifact that {parts[0]} is a part of: their classes "
                "or info differ"
            )
    images = [image for truth in truths for image in truth.images]
    with atomic_folder(Path(output)) as folder:
        path = folder / PSEUDO_GT_NAME
        with PseudoGTWriter(path, images=images, categories=first.categories) as writer:
            for truth in truths:
                for row in truth.annotations:
                    writer.add({key: value for key, value in row.items() if key != "id"})
            writer.finish(first.info)
        _write_manifest(folder, manifest or merge_manifests(parts))


def write_detection_folder(
    path: Path, rows: Sequence[dict[str, Any]], manifest: RunManifest
) -> None:
    """Write ``detections.json`` and a manifest, as :func:`write_pseudo_gt_folder`."""
    with atomic_folder(Path(path)) as folder:
        write_detections(folder / DETECTIONS_NAME, rows)
        _write_manifest(folder, manifest)


def merge_detection_folders(
    parts: Sequence[Path], output: Path, *, manifest: RunManifest | None = None
) -> None:
    """Join parts in order, as :func:`merge_pseudo_gt_folders`."""
    if not parts:
        raise ValueError("there are no parts to merge")
    rows = [row for part in parts for row in read_detections(Path(part) / DETECTIONS_NAME)]
    with atomic_folder(Path(output)) as folder:
        write_detections(folder / DETECTIONS_NAME, rows)
        _write_manifest(folder, manifest or merge_manifests(parts))


def _source(truth: PseudoGroundTruth) -> dict[str, Any]:
    return {key: value for key, value in truth.info["weaksam"].items() if key != "counts"}


def _write_manifest(folder: Path, manifest: RunManifest | None) -> None:
    if manifest is None:
        raise ValueError(f"{folder} gets no manifest: neither given nor in the parts")
    stamped = manifest.stamped()
    replace(stamped, outputs=list_outputs(folder)).write(folder / "manifest.json")
