"""How an artifact is cut into parts, which parts are there, and which a process makes next."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from weaksam_d2.artifacts import (
    ArtifactError,
    RunManifest,
    atomic_folder,
    part_path,
    part_ranges,
    parts_root,
    read_json,
    shard_parts,
    write_json,
)
from weaksam_d2.artifacts.shards import PART_SIZE
from weaksam_d2.engine.stages.stage import StageRequest, check_existing

PLAN_NAME = "parts.json"
FORMAT = "weaksam_d2.parts/1"
POLL_SECONDS = 0.2
DEFAULT_PATIENCE = 60.0  # seconds, for a process that has made no part and cannot tell how long


@dataclass(frozen=True)
class PartPlan:
    """The parts of an artifact in its folder ``<output>.parts``.

    All that processes know of each other is the names in this folder: ``part-000003`` is complete,
    ``.part-000003.tmp-…`` was begun by someone (who may be dead), and without ``parts.json`` the
    parts were joined and are being removed.
    """

    root: Path
    ranges: Sequence[range]

    def names(self) -> set[str]:
        """The entries of the folder; none once it is being removed."""
        try:
            found = set(os.listdir(self.root))
        except FileNotFoundError:
            return set()
        return found if PLAN_NAME in found else set()

    @property
    def is_open(self) -> bool:
        """Whether the parts still lie there; they go when they have been joined."""
        return bool(self.names())

    def missing(self) -> list[int]:
        """Parts that nobody has finished; none once the parts have been joined."""
        names = self.names()
        return [
            p for p in range(len(self.ranges)) if names and part_path(Path(), p).name not in names
        ]

    def begun(self) -> set[int]:
        """Parts that a process has begun, now or before it was killed."""
        begun = {name.split(".")[1] for name in self.names() if name.startswith(".part-")}
        return {p for p in range(len(self.ranges)) if part_path(Path(), p).name in begun}

    def images_done(self) -> int:
        """Images of all finished parts, whoever made them."""
        missing = sum(len(self.ranges[p]) for p in self.missing())
        return sum(map(len, self.ranges)) - missing


def open_plan(request: StageRequest, expected: RunManifest, images: int) -> PartPlan:
    """The plan that lies at ``<output>.parts``, or a new one if there is none.

    Several processes may do this at once: the folder appears with all its files by one renaming.

    Raises:
        ArtifactMismatchError: the folder belongs to other settings, see ``check_existing``.
        ArtifactError: it is cut into parts of another size than ``--part-size`` asks for.
    """
    root = parts_root(request.output)
    check_existing(request, root, expected)
    if not root.exists():
        _make_plan(request, expected, root, images)
        check_existing(replace(request, overwrite=False), root, expected)
    if not (root / PLAN_NAME).is_file():
        raise ArtifactError(f"{root} has no {PLAN_NAME}: use --overwrite to start again")
    size = int(read_json(root / PLAN_NAME)["part_size"])
    if request.part_size not in (0, size):
        raise ArtifactError(
            f"{root} is cut into parts of {size} images, --part-size is {request.part_size}: "
            "leave --part-size out to go on with it, or use --overwrite to start again"
        )
    return PartPlan(root, part_ranges(images, size))


def _make_plan(request: StageRequest, expected: RunManifest, root: Path, images: int) -> None:
    size = request.part_size or PART_SIZE
    parts = len(part_ranges(images, size))
    try:
        with atomic_folder(root) as folder:
            write_json(folder / "config.json", dict(request.config))
            expected.write(folder / "manifest.json")
            plan = {"format": FORMAT, "images": images, "part_size": size, "parts": parts}
            write_json(folder / PLAN_NAME, plan)
    except FileExistsError:
        return  # another process of this run was first


def own_parts(plan: PartPlan, shards: int, shard: int) -> Iterator[int]:
    """Missing parts with ``p % shards == shard``, those that someone has begun last."""
    tried: set[int] = set()
    while left := [p for p in shard_parts(plan.missing(), shards, shard) if p not in tried]:
        begun = plan.begun()
        chosen = min(left, key=lambda p: (p in begun, p))
        tried.add(chosen)
        yield chosen


def foreign_parts(
    plan: PartPlan, shards: int, shard: int, patience: Callable[[], float], wait: Callable[[], None]
) -> Iterator[int]:
    """Missing parts of any rank, from the end, until there are none.

    Parts that nobody has begun come first. One that was begun is taken only after ``patience()``
    seconds without news, since the process that began it may be dead; ``wait()`` is called while
    there is nothing else to do. Ranks start at different places, so that they rarely meet.
    """
    idle_since = time.monotonic()
    while missing := plan.missing():
        begun = plan.begun()
        fresh = [p for p in missing if p not in begun]
        if not fresh and time.monotonic() - idle_since < patience():
            wait()
            time.sleep(POLL_SECONDS)
            continue
        choice = (fresh or missing)[::-1]
        yield choice[shard * len(choice) // shards]
        idle_since = time.monotonic()
