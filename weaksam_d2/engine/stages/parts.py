"""Make an array artifact in parts: resumed after a kill, shared by processes and machines."""

import logging
import shutil
import time
import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from weaksam_d2.artifacts import (
    ArtifactError,
    ArtifactMismatchError,
    RunManifest,
    merge_manifests,
    move_folder,
    part_path,
    parts_root,
    pending_parts,
    write_json,
)
from weaksam_d2.engine.stages.part_plan import (
    DEFAULT_PATIENCE,
    PLAN_NAME,
    PartPlan,
    foreign_parts,
    open_plan,
    own_parts,
)
from weaksam_d2.engine.stages.progress import PartsProgress, PartTaken
from weaksam_d2.engine.stages.stage import Records, StageRequest, check_existing

logger = logging.getLogger(__name__)
Process = Callable[[Records, Path, RunManifest], None]


def run_parts(
    request: StageRequest,
    records: Records,
    process: Process,
    merge: Callable[..., None],
    progress: PartsProgress | None = None,
) -> RunManifest | None:
    """Make an array artifact in parts of some images, so that a kill loses one part at most.

    Shard k of K does the parts with ``p % K == k``; with ``take_over`` (ranks) it then does what
    others left. Whoever finds all parts complete joins them (``join``; of ranks only rank 0).
    The bytes depend neither on K nor on the size of a part nor on kills. Processes meet only in
    the folder ``<output>.parts``: a part is published by one renaming, the first one wins.

    Args:
        request: what is to be made.
        records: the images, in data set order.
        process: makes the artifact of some records at a path and gives it the manifest, whose
            counts it fills.
        merge: joins parts (``artifacts.merge_*``).
        progress: told of each finished part; ``process`` reports images to it.

    Returns:
        The manifest, or None while others owe parts or the joining.

    Raises:
        ArtifactMismatchError: as ``run_stage``.
        ArtifactError: parts of another size are there, or a part is damaged.
    """
    expected = request.manifest("running")
    found = check_existing(request, request.output, expected)
    if found is not None and found.status == "complete":
        logger.info("%s: %s is complete, skipped", request.stage, request.output)
    else:
        shown = progress or PartsProgress(request.stage, len(records), shown=False)
        try:
            found = _run(request, expected, records, process, merge, shown)
        except (OSError, ArtifactError):
            # Another process may have joined and removed the parts under our hands.
            found = _made_meanwhile(request, expected)
            if found is None:
                raise
    if found is not None:
        _remove_parts(request, expected)
    return found


def _run(
    request: StageRequest,
    expected: RunManifest,
    records: Records,
    process: Process,
    merge: Callable[..., None],
    progress: PartsProgress,
) -> RunManifest | None:
    plan = open_plan(request, expected, len(records))
    done = _made_meanwhile(request, expected)
    if done is not None:  # published since we looked, so the plan may be a new one
        return done
    pending = pending_parts(plan.root, expected, len(plan.ranges))
    progress.watch(plan)
    if request.dispatch is not None and pending:
        request.dispatch(pending, plan, progress.look)
    _make_parts(request, expected, plan, records, process, progress)
    if not plan.is_open:
        return _made_meanwhile(request, expected)
    waiting = pending_parts(plan.root, expected, len(plan.ranges))
    if waiting:
        logger.info("%d of %d parts are left for other shards", len(waiting), len(plan.ranges))
        return None
    if not request.join:
        return None
    return _publish(request, expected, plan, merge)


def _make_parts(
    request: StageRequest,
    expected: RunManifest,
    plan: PartPlan,
    records: Records,
    process: Process,
    progress: PartsProgress,
) -> None:
    longest, end = 0.0, time.time()

    def make(p: int) -> None:
        nonlocal longest, end
        if part_path(plan.root, p).exists():
            return  # another process has made it meanwhile
        # A part's time starts where the last one of this process ended: nothing is left out.
        start, clock = end, time.perf_counter()
        manifest = expected.renewed(
            status="complete", parts=len(plan.ranges), seconds={"started": start}
        )
        progress.begin(p)
        try:
            process([records[i] for i in plan.ranges[p]], part_path(plan.root, p), manifest)
        except (PartTaken, FileExistsError):
            if not part_path(plan.root, p).exists() and plan.is_open:
                raise
            logger.info("%s: part %d came from another process", request.stage, p)
            progress.begin(None)
            return
        end, seconds = time.time(), time.perf_counter() - clock
        longest = max(longest, seconds)
        progress.finish(seconds)

    for p in own_parts(plan, request.num_shards, request.shard):
        make(p)
    if request.take_over:
        others = foreign_parts(
            plan,
            request.num_shards,
            request.shard,
            lambda: 1.5 * longest if longest else DEFAULT_PATIENCE,
            progress.look,
        )
        for p in others:
            make(p)


def _publish(
    request: StageRequest, expected: RunManifest, plan: PartPlan, merge: Callable[..., None]
) -> RunManifest:
    """Join the parts; of several processes that do so at once, the first one's result stays."""
    try:
        return _join(request, expected, plan, merge)
    except (OSError, ArtifactError):
        # The others' folder is in the way, or they have removed the parts under our hands.
        found = _made_meanwhile(request, expected)
        if found is None:
            raise
        logger.info("%s: %s was joined by another process", request.stage, request.output)
        return found


def _join(
    request: StageRequest, expected: RunManifest, plan: PartPlan, merge: Callable[..., None]
) -> RunManifest:
    start = time.perf_counter()
    parts = [part_path(plan.root, p) for p in range(len(plan.ranges))]
    manifest = merge_manifests(parts)
    if manifest is None:
        raise ArtifactMismatchError(f"the parts in {plan.root} have no manifest; use --overwrite")
    manifest.command = expected.command  # a worker's own command line names its machine
    # Inside the folder of parts, so that a kill leaves nothing beside the artifact, and in a place
    # of this process alone, so that nobody moves it while it is written.
    merged = plan.root / f"merged-{uuid.uuid4().hex}"
    merge(parts, merged, manifest=manifest)
    written = RunManifest.read(merged)
    seconds = written.seconds.get("total", 0.0) + time.perf_counter() - start
    written.seconds["total"] = round(seconds, 3)
    written.write(merged)
    write_json(merged / "config.json", dict(request.config))
    move_folder(merged, request.output)
    return written


def _made_meanwhile(request: StageRequest, expected: RunManifest) -> RunManifest | None:
    """The manifest of the complete artifact, if another process has published it."""
    path = request.output / "manifest.json"
    if not path.is_file():
        return None
    found = RunManifest.read(path)
    same = found.identity() == expected.identity() and found.status == "complete"
    return found if same else None


def _remove_parts(request: StageRequest, expected: RunManifest) -> None:
    """Remove the parts of a complete artifact, also those that a kill or a slower process left."""
    root = parts_root(request.output)
    path = root / "manifest.json"
    with suppress(FileNotFoundError):  # another process removes them, too
        if path.is_file() and RunManifest.read(path).identity() != expected.identity():
            return
        (root / PLAN_NAME).unlink(missing_ok=True)  # first: others see that the parts are closed
        shutil.rmtree(root, ignore_errors=True)
