"""Run one stage: check what is there, skip or resume, time it, write its manifest."""

import logging
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
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
    read_json,
    sha256_json,
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
    "retrain": (*TRAINING_KEYS, "WEAKSAM.EMA_TEACHER"),
    "labels": ("WEAKSAM.LABELS",),  # and the keys that the label source declares
    "relabel": ("MODEL", "INPUT", "TEST"),
    "instance_masks": ("WEAKSAM.SAM", "WEAKSAM.INSTANCE_MASKS"),
    "masks": TRAINING_KEYS,
    "baseline": TRAINING_KEYS,
    "segment": TRAINING_KEYS,
    "mask_figures": ("TEST",),
}
# Keys that change no result, or that hold paths: files enter by the hash of their content.
NEUTRAL_KEYS = (
    "MODEL.DEVICE",
    "MODEL.WEIGHTS",
    "MODEL.CLASSIFIER.WEIGHTS",
    "MODEL.S2C.MASKS",
    "WEAKSAM.SAM.POINTS_PER_BATCH",
    "WEAKSAM.SAM.WEIGHTS",
    "WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL",
    "WEAKSAM.CAMS.MAX_MAP_CHUNK",
    "DATALOADER.NUM_WORKERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "TEST.EVAL_PERIOD",
    "TEST.EXCLUDE_IDS",
    "DATASETS.REGISTER",
    "DATASETS.TAGGED",
    "DATASETS.VOC",
    "DATASETS.PROPOSAL_FILES_TRAIN",
    "DATASETS.PROPOSAL_FILES_TEST",
    "DATASETS.PSEUDO_GT_TRAIN",
    "DATASETS.PSEUDO_LABELS_TRAIN",
)


@dataclass(frozen=True)
class StageRequest:
    """What a stage is about to make, as far as it decides the result.

    ``inputs`` are (name, file or folder) pairs; ``dataset`` describes the images (see
    :func:`describe_records`); ``on_change`` says what to do with an artifact of other settings:
    ``stop`` with both hashes (tools) or ``redo`` it and say why (pipeline). The other fields say
    how the work is shared (``parts.run_parts``) and change no result: this process is ``shard`` of
    ``num_shards``; with ``take_over`` it does what others left as well, and with ``join`` it joins
    the parts once all are there; a part has ``part_size`` images (0: as begun, or 64);
    ``dispatch(pending, plan, look)`` has pending parts made elsewhere.
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
    take_over: bool = False
    join: bool = True
    part_size: int = 0
    dispatch: Callable[..., None] | None = None

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


def declared_config(
    cfg: Any, stage: str, *, declared: Sequence[str] = (), neutral: Sequence[str] = ()
) -> dict[str, Any]:
    """The keys that decide a stage's result, flat: ``{"WEAKSAM.CAMS.FLIP": True, …}``.

    ``declared`` prefixes and ``neutral`` keys are those of a registered class that the stage uses.
    """
    flat = _flatten(cfg)
    prefixes, left_out = (*STAGE_KEYS[stage], *declared), (*NEUTRAL_KEYS, *neutral)
    return {
        key: value
        for key, value in sorted(flat.items())
        if any(key == p or key.startswith(p + ".") for p in prefixes) and key not in left_out
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
    # Absent and unknown classes count where there are any.
    rows = [
        [int(r["height"]), int(r["width"]), [int(c) for c in r.get("image_labels", [])]]
        + [[key, *map(int, r[key])] for key in ("negative_labels", "unknown_labels") if key in r]
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
    before = 0.0 if found is None else seconds_worked(found, request.output)
    expected.seconds = {"total": before}
    expected.write(request.output / "manifest.json")
    write_json(request.output / "config.json", dict(request.config))
    start = time.perf_counter()
    result = body(request.output, found is not None)
    return _publish(request, expected, result, before + time.perf_counter() - start)


def seconds_worked(manifest: RunManifest, folder: Path) -> float:
    """Seconds that interrupted runs worked on a folder, up to the last file that they wrote."""
    started = datetime.strptime(manifest.created, "%Y-%m-%dT%H:%M:%S%z").timestamp()
    last = max((p.stat().st_mtime for p in folder.rglob("*") if p.is_file()), default=started)
    return round(manifest.seconds.get("total", 0.0) + max(0.0, last - started), 3)


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
        remove_artifact(folder)
        return None
    raise ArtifactMismatchError(
        f"{folder} was made by other settings: {reason} (identity "
        f"{'none' if found is None else found.identity()[:12]}, now {expected.identity()[:12]}); "
        "choose another --output, or replace it with --overwrite"
    )


def remove_artifact(folder: Path) -> None:
    """Remove a folder, its manifest first: after a kill nothing is left that looks whole."""
    (folder / "manifest.json").unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)


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
