"""Joining the parts of semantic pseudo labels."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts.io import ArtifactMismatchError, ImageId, atomic_folder
from weaksam_d2.artifacts.manifest import MANIFEST_NAME, RunManifest, list_outputs
from weaksam_d2.artifacts.sem_seg_index import LABELS_FOLDER, index_header, write_index
from weaksam_d2.artifacts.sem_seg_labels import INDEX_NAME, SemSegLabels
from weaksam_d2.artifacts.shards import merge_manifests

__all__ = ["merge_sem_seg_labels"]


def merge_sem_seg_labels(
    parts: Sequence[Path],
    output: Path,
    *,
    manifest: RunManifest | None = None,
    overwrite: bool = False,
) -> None:
    """Join parts in order; the bytes are those of one writer, whatever the number of parts.

    ``manifest`` defaults to the sum of the parts' own, if they have one (`merge_manifests`).

    Raises:
        ArtifactMismatchError: parts of another space, system, base or supervision, or an image in
            two of them. ValueError: no parts.
    """
    if not parts:
        raise ValueError("there are no parts to merge")
    opened = [SemSegLabels.open(part) for part in parts]
    first, header = opened[0], _header_of(opened[0])
    images: dict[ImageId, dict[str, Any]] = {}
    with atomic_folder(Path(output), overwrite=overwrite) as folder:
        (folder / LABELS_FOLDER).mkdir()
        for part in opened:
            if _header_of(part) != header:
                raise ArtifactMismatchError(
                    f"{part.folder} is no part of the artifact that {first.folder} is a part of: "
                    "their label_space, system, base or supervision differ"
                )
            for image_id in part.image_ids:
                if image_id in images:
                    raise ArtifactMismatchError(f"image {image_id!r} of {part.folder} comes twice")
                images[image_id] = part.entry(image_id)
                _link_or_copy(part.path(image_id), folder / str(images[image_id]["file"]))
        write_index(folder / INDEX_NAME, header, images.items())
        whole = manifest or merge_manifests(parts)
        if whole is not None:
            stamped = whole.stamped()
            replace(stamped, outputs=list_outputs(folder)).write(folder / MANIFEST_NAME)


def _header_of(labels: SemSegLabels) -> dict[str, Any]:
    made = {"system": labels.system, "base": labels.base, "supervision": labels.supervision}
    return index_header(labels.space, **made)


def _link_or_copy(source: Path, target: Path) -> None:
    """A second name of the file where the file system has that; parts are never written to."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
