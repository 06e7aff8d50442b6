"""Conversion of proposals: data sets and manifests around ``proposals.convert``."""

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from weaksam_d2 import __version__
from weaksam_d2.artifacts import (
    ProposalStore,
    ProposalStoreWriter,
    RunManifest,
    describe_dataset,
    describe_input,
    sha256_json,
)
from weaksam_d2.data import weak_records
from weaksam_d2.engine.stages.stage import describe_records, library_versions
from weaksam_d2.proposals.convert import (
    DeduplicatedProposals,
    JoinedProposals,
    MergedProposals,
    ProposalView,
    SubsetOfProposals,
    export_proposals,
    import_proposals,
    write_store,
)

__all__ = ["conversion_manifest", "import_store", "make_view", "save_view"]


def conversion_manifest(
    inputs: Sequence[Path], settings: Mapping[str, Any], dataset: str = ""
) -> RunManifest:
    """Manifest of a conversion: ``settings`` are what decides the result besides the inputs.

    ``dataset`` is the name of the weak data set that a foreign file was read for, if any.
    """
    return RunManifest(
        stage="proposals",
        config_sha256=sha256_json(dict(settings)),
        versions=library_versions(),
        dataset=describe_records(dataset, weak_records(dataset)) if dataset else {},
        inputs=[describe_input(f"input_{row}", path) for row, path in enumerate(inputs)],
        command=list(sys.argv),
    )


def import_store(
    path: Path, format_name: str, dataset: str, output: Path, **options: Any
) -> dict[str, Any]:
    """Write a foreign file as the store of a weak data set; returns the counts of its manifest.

    Options as in `import_proposals`.

    Raises:
        KeyError: no such data set. ForeignFileError, UnsafePickleError, ValueError: as
        `import_proposals`.
    """
    return import_proposals(path, format_name, weak_records(dataset), output, **options).counts()


def make_view(
    stores: Sequence[ProposalStore],
    *,
    merge: str | None = None,
    dedupe: float | None = None,
    image_ids: Sequence[str] | None = None,
    num_images: int | None = None,
    sources: Sequence[str] | None = None,
    top_k: int | None = None,
    masks: bool = True,
) -> ProposalView:
    """Stores as one, changed in this order: masks off, merged, repeats dropped, cut down.

    ``merge`` is "boxes" (of the same images) or "images" (different ones), for several stores.
    Sources of stores without any are the names of their folders.

    Raises:
        ValueError: several stores and no ``merge``; what does not fit (see the views).
    """
    views: list[ProposalView] = [
        store if masks else SubsetOfProposals(store, masks=False) for store in stores
    ]
    if len(views) == 1:
        view = views[0]
    elif merge in ("boxes", "images"):
        kind = MergedProposals if merge == "boxes" else JoinedProposals
        view = kind(views, _names([store.path for store in stores]))
    else:
        raise ValueError(f"merge is {merge!r} for {len(views)} stores, expected boxes or images")
    if dedupe is not None:
        view = DeduplicatedProposals(view, dedupe)
    if num_images is not None:
        if num_images < 0:
            raise ValueError(f"num_images must not be negative, got {num_images}")
        image_ids = list(view.image_ids if image_ids is None else image_ids)[:num_images]
    return SubsetOfProposals(view, image_ids=image_ids, sources=sources, top_k=top_k)


def _names(paths: Sequence[Path]) -> list[str]:
    """Shortest ends of the paths that tell all of them apart."""
    for parts in range(1, max(len(path.parts) for path in paths)):
        names = ["/".join(path.parts[-parts:]) for path in paths]
        if len(set(names)) == len(names):
            return names
    return [str(path) for path in paths]


def save_view(
    view: ProposalView,
    output: Path,
    format_name: str,
    manifest: RunManifest,
    *,
    scores: str = "rank",
    overwrite: bool = False,
) -> RunManifest:
    """Write a view as a store, or as a foreign file with its manifest beside it.

    The manifest lies in the store, or at `<output>.manifest.json`; it gets data set, counts and
    seconds.

    Raises:
        FileExistsError: there is an output, and ``overwrite`` is off. ValueError: as
        `export_proposals`.
    """
    start = time.perf_counter()
    if not manifest.dataset:
        manifest = replace(manifest, dataset=describe_dataset("", list(view.image_ids)))
    if format_name == "store":
        names = view.source_names
        with ProposalStoreWriter(output, source_names=names, overwrite=overwrite) as writer:
            counts = {**manifest.counts, **write_store(view, writer)}
            writer.manifest = _finished(manifest, counts, start)
        return RunManifest.read(output)
    meta = {"code_version": __version__, "config_sha256": manifest.config_sha256}
    export_proposals(view, format_name, output, scores=scores, meta=meta, overwrite=overwrite)
    finished = _finished(manifest, manifest.counts, start)
    finished.outputs = [describe_input(output.name, output)]
    finished.write(output.with_name(output.name + ".manifest.json"))
    return finished


def _finished(manifest: RunManifest, counts: Mapping[str, Any], start: float) -> RunManifest:
    seconds = {"total": round(time.perf_counter() - start, 3)}
    return replace(manifest, counts=dict(counts), seconds=seconds)
