"""Run one stage: check what is there, skip or resume, time it, write its manifest."""

import logging
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from weaksam_d2 import __version__
from weaksam_d2.artifacts import (
    ArtifactMismatchError,
    RunManifest,
    describe_dataset,
    describe_input,
    list_outputs,
    merge_manifests,
    part_path,
    part_ranges,
    parts_root,
    pending_parts,
    read_json,
    sha256_json,
    shard_parts,
    write_json,
)

logger = logging.getLogger(__name__)
Records = Sequence[Mapping[str, Any]]

TRAINING_KEYS = ("MODEL", "SOLVER", "INPUT", "DATASETS", "DATALOADER", "TEST", "SEED")
STAGE_KEYS: dict[str, tuple[str, ...]] = {
    "classifier": TRAINING_KEYS,
    "cams": ("MODEL", "INPUT", "WEAKSAM.CAMS"),
    "prompts": ("WEAKSAM.PROMPTS", "WEAKSAM.CAMS.EPS"),
    "proposals": ("WEAKSAM.SAM", "WEAKSAM.PROPOSALS", "WEAKSAM.PROMPTS.GRID"),
    "wsod": TRAINING_KEYS,
    "pseudo_gt": ("WEAKSAM.PSEUDO_GT",),
    "retrain": TRAINING_KEYS,
}
# Keys that change no result, or that hold paths: files enter by the hash of their content.
NEUTRAL_KEYS = (
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "WEAKSAM.SAM.POINTS_PER_BATCH",
    "WEAKSAM.SAM.WEIGHTS",
    "WEAKSAM.CAMS.MAX_MAP_CHUNK",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "DATASETS.REGISTER",
    "DATASETS.TAGGED",
    "DATASETS.VOC",
    "DATASETS.PROPOSAL_FILES_TRAIN",
    "DATASETS.PROPOSAL_FILES_TEST",
    "DATASETS.PSEUDO_GT_TRAIN",
)


@dataclass(frozen=True)
class StageRequest:
    """What a stage is about to make, as far as it decides the result.

    ``inputs`` are (name, file or folder) pairs; ``dataset`` describes the images (see
    :func:`describe_records`); ``on_change`` says what to do with an artifact of other settings:
    ``stop`` with both hashes (tools) or ``redo`` it and say why (pipeline).
    """

    stage: str
    output: Path
    config: Mapping[str, Any]
    dataset: Mapping[str, Any]
    inputs: Sequence[tuple[str, Path]] = ()
    on_change: str = "stop"
    overwrite: bool = False
    num_shards: int = 1
    shard: int = 0

    def manifest(self, status: str) -> RunManifest:
        """The manifest that a run of this request has."""
        return RunManifest(
            stage=self.stage,
            status=status,
            config_sha256=sha256_json(dict(self.config)),
            versions=library_versions(),
            dataset=dict(self.dataset),
            inputs=[describe_input(name, path) for name, path in self.inputs],
            command=list(sys.argv),
            config="config.json",
        )


@dataclass
class StageResult:
    """Counts and seconds that a stage's body reports for the manifest."""

    counts: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def declared_config(cfg: Any, stage: str) -> dict[str, Any]:
    """The keys that decide a stage's result, flat: ``{"WEAKSAM.CAMS.FLIP": True, …}``."""
    flat = _flatten(cfg)
    prefixes = STAGE_KEYS[stage]
    return {
        key: value
        for key, value in sorted(flat.items())
        if any(key == p or key.startswith(p + ".") for p in prefixes) and key not in NEUTRAL_KEYS
    }


def _flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in node.items():
        if hasattr(value, "items"):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def describe_records(name: str, records: Records) -> dict[str, Any]:
    """``dataset`` block of a manifest: name, ids, and the hash of sizes and tags (not pixels)."""
    rows = [
        [int(r["height"]), int(r["width"]), [int(c) for c in r.get("image_labels", [])]]
        for r in records
    ]
    ids = [str(r["image_id"]) for r in records]
    return describe_dataset(name, ids, records_sha256=sha256_json(rows))


def library_versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"weaksam_d2": __version__, "python": platform.python_version()}
    for module in ("torch", "torchvision", "timm", "numpy", "segment-anything"):
        try:
            found[module] = metadata.version(module)
        except metadata.PackageNotFoundError:
            continue
    import detectron2

    found["detectron2"] = detectron2.__version__
    return found


def run_stage(request: StageRequest, body: Callable[[Path, bool], StageResult]) -> RunManifest:
    """Make a folder artifact unless it is there already, and return its manifest.

    Args:
        request: what is to be made.
        body: called with the output folder and whether it holds an interrupted run of the same
            request that may be resumed; fills the folder.

    Raises:
        ArtifactMismatchError: if the folder holds a result of other settings or inputs and
            ``on_change`` is ``stop``.
    """
    expected = request.manifest("running")
    found = check_existing(request, request.output, expected)
    if found is not None and found.status == "complete":
        logger.info("%s: %s is complete, skipped", request.stage, request.output)
        return found
    request.output.mkdir(parents=True, exist_ok=True)
    expected.write(request.output / "manifest.json")
    write_json(request.output / "config.json", dict(request.config))
    start = time.perf_counter()
    result = body(request.output, found is not None)
    return _publish(request, expected, result, time.perf_counter() - start)


def run_parts(
    request: StageRequest,
    records: Records,
    process: Callable[[Records, Path, RunManifest], None],
    merge: Callable[..., None],
) -> RunManifest | None:
    """Make an array artifact in parts of 64 images, so that a kill loses one part at most.

    Shard k of K does the parts with ``p % K == k``; whoever finds all parts complete merges them.
    The merged bytes do not depend on K or on kills.

    Args:
        request: what is to be made.
        records: the images, in data set order.
        process: makes the artifact of some records at a path and gives it the manifest, whose
            counts it fills.
        merge: joins parts (``artifacts.merge_*``).

    Returns:
        The manifest, or None while other shards still owe parts.
    """
    expected = request.manifest("running")
    found = check_existing(request, request.output, expected)
    if found is not None and found.status == "complete":
        logger.info("%s: %s is complete, skipped", request.stage, request.output)
        return found
    root, ranges = parts_root(request.output), part_ranges(len(records))
    check_existing(request, root, expected)
    if not root.exists():
        root.mkdir(parents=True)
        write_json(root / "config.json", dict(request.config))
        expected.write(root / "manifest.json")
    _run_pending(request, expected, records, ranges, process)
    waiting = pending_parts(root, expected, len(ranges))
    if waiting:
        logger.info("%d of %d parts are left for other shards", len(waiting), len(ranges))
        return None
    parts = [part_path(root, p) for p in range(len(ranges))]
    manifest = merge_manifests(parts)
    if manifest is None:
        raise ArtifactMismatchError(f"the parts in {root} have no manifest; use --overwrite")
    merge(parts, request.output, manifest=manifest)
    write_json(request.output / "config.json", dict(request.config))
    shutil.rmtree(root)
    return RunManifest.read(request.output / "manifest.json")


def _run_pending(
    request: StageRequest,
    expected: RunManifest,
    records: Records,
    ranges: Sequence[range],
    process: Callable[[Records, Path, RunManifest], None],
) -> None:
    root = parts_root(request.output)
    pending = pending_parts(root, expected, len(ranges))
    for p in shard_parts(pending, request.num_shards, request.shard):
        if part_path(root, p).exists():
            continue  # a process of another division has made it meanwhile
        start = time.perf_counter()
        manifest = request.manifest("complete")
        manifest.parts = len(ranges)
        process([records[i] for i in ranges[p]], part_path(root, p), manifest)
        logger.info(
            "%s: part %d of %d in %.1f s",
            request.stage,
            p + 1,
            len(ranges),
            time.perf_counter() - start,
        )


def _publish(
    request: StageRequest, manifest: RunManifest, result: StageResult, seconds: float
) -> RunManifest:
    manifest.status = "complete"
    manifest.counts = result.counts
    manifest.seconds = {"total": round(seconds, 3), **result.seconds}
    kept = [row for row in list_outputs(request.output) if not _is_log(str(row["name"]))]
    manifest.outputs = kept
    manifest.write(request.output / "manifest.json")
    return manifest


def _is_log(name: str) -> bool:
    return Path(name).name.startswith(("events.out.", "log.txt"))


def check_existing(
    request: StageRequest, folder: Path, expected: RunManifest
) -> RunManifest | None:
    """The manifest of what lies in a folder, if it is of this request; else stop or clear it.

    Raises:
        ArtifactMismatchError: as :func:`run_stage`.
    """
    path = folder / "manifest.json"
    if not folder.exists():
        return None
    found = RunManifest.read(path) if path.exists() else None
    if found is not None and found.identity() == expected.identity() and not request.overwrite:
        return found
    reason = "there is no manifest in it" if found is None else _difference(request, found, folder)
    if request.overwrite or request.on_change == "redo":
        if found is not None:
            logger.warning("%s: done again, because %s", request.stage, reason)
        shutil.rmtree(folder)
        return None
    raise ArtifactMismatchError(
        f"{folder} was made by other settings: {reason} (identity "
        f"{'none' if found is None else found.identity()[:12]}, now {expected.identity()[:12]}); "
        "choose another --output, or replace it with --overwrite"
    )


def _difference(request: StageRequest, found: RunManifest, folder: Path) -> str:
    if request.overwrite:
        return "--overwrite was given"
    reasons = []
    stored = folder / "config.json"
    before = read_json(stored) if stored.exists() else {}
    for key in sorted({*before, *request.config}):
        old, new = before.get(key), request.config.get(key)
        if old != new:
            reasons.append(f"{key} was {old!r} and is {new!r}")
    expected = request.manifest("running")
    old_inputs = {entry["name"]: entry["sha256"] for entry in found.inputs}
    for entry in expected.inputs:
        if old_inputs.get(entry["name"]) != entry["sha256"]:
            reasons.append(f"its input {entry['name']} changed")
    if found.dataset != expected.dataset:
        reasons.append(f"the data set {expected.dataset.get('name')} changed")
    return "; ".join(reasons) or f"the stage was {found.stage!r}"
