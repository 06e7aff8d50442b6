"""Parts of a data set: which are left to do, who does them, and joining them."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from weaksam_d2.artifacts.arrays import ArrayFolder
from weaksam_d2.artifacts.cams import CamStore, CamStoreWriter
from weaksam_d2.artifacts.io import ArtifactError, ArtifactMismatchError
from weaksam_d2.artifacts.manifest import MANIFEST_NAME, RunManifest
from weaksam_d2.artifacts.prompt_set import PromptSet, PromptSetWriter
from weaksam_d2.artifacts.proposal_store import ProposalStore, ProposalStoreWriter

PART_SIZE = 64  # images, unless --part-size says otherwise; the most that a kill can lose


def part_ranges(n: int, size: int = PART_SIZE) -> list[range]:
    """Cut images 0 to ``n`` - 1 into parts of ``size``, the last one shorter.

    No images still give one (empty) part, so that the artifact of an empty data set exists.
    """
    if size < 1:
        raise ValueError(f"a part must have at least one image, got size {size}")
    return [range(start, min(start + size, n)) for start in range(0, max(n, 1), size)]


def parts_root(output: Path) -> Path:
    """Folder of an artifact's parts: `<output>.parts`."""
    output = Path(output)
    return output.with_name(output.name + ".parts")


def part_path(root: Path, part: int) -> Path:
    """Folder of one part: `<root>/part-000007`."""
    return Path(root) / f"part-{part:06d}"


def shard_parts(parts: Sequence[int], num_shards: int, shard: int) -> list[int]:
    """Those of the parts that shard ``shard`` of ``num_shards`` does: p % num_shards == shard.

    Raises:
        ValueError: ``shard`` is not in [0, num_shards).
    """
    if not 0 <= shard < num_shards:
        raise ValueError(f"--shard must be in [0, {num_shards}) for --num-shards, got {shard}")
    return [part for part in parts if part % num_shards == shard]


def pending_parts(root: Path, expected: RunManifest, n_parts: int) -> list[int]:
    """Parts under ``root`` that are still to do; parts of the same identity count as done.

    Every part's manifest has the identity of the whole run (all image ids), and its ``parts``.

    Raises:
        ArtifactMismatchError: a part was made with another configuration, inputs, images or
            number of parts; gives both hashes.
        ArtifactError: a part has no readable manifest, or lacks bytes.
    """
    pending = []
    for part in range(n_parts):
        path = part_path(root, part)
        if not path.exists():
            pending.append(part)
            continue
        if not (path / MANIFEST_NAME).is_file():
            raise ArtifactError(f"{path} has no {MANIFEST_NAME}: use --overwrite to start again")
        found = RunManifest.read(path)
        check_identity(path, found, expected)
        if found.parts != n_parts:
            raise ArtifactMismatchError(
                f"{path} is one of {found.parts} parts, expected {n_parts}: use --overwrite to "
                "start again"
            )
        _check_bytes(path, found)
    return pending


def check_identity(path: Path, found: RunManifest, expected: RunManifest) -> None:
    """Refuse an artifact of another identity.

    Raises:
        ArtifactMismatchError: with both hashes and what differs.
    """
    ours, theirs = expected.identity(), found.identity()
    if ours == theirs:
        return
    differs = [
        name
        for name in ("stage", "config_sha256", "inputs", "dataset")
        if getattr(found, name) != getattr(expected, name)
    ]
    raise ArtifactMismatchError(
        f"{path} was made by another run: its identity is {theirs}, this run's is {ours} "
        f"({', '.join(differs)} differ). Use --overwrite to replace it, or another output"
    )


def _check_bytes(path: Path, manifest: RunManifest) -> None:
    for row in manifest.outputs:
        file = path / str(row["name"])
        size = file.stat().st_size if file.is_file() else -1
        if size != row["bytes"]:
            found = "is missing" if size < 0 else f"has {size} bytes"
            raise ArtifactError(
                f"{file} {found}, expected {row['bytes']} bytes: remove {path} to make it again"
            )


def merge_manifests(parts: Sequence[Path]) -> RunManifest | None:
    """Manifest of the whole from those of all parts: counts and seconds are added.

    Of parts that say when they started and ended, ``seconds["total"]`` is the time during which at
    least one was being made (pauses are not in it, and ranks count once), and
    ``seconds["process"]`` the sum over all. None if no part has a manifest.

    Raises:
        ArtifactMismatchError: two parts differ in identity; gives both hashes.
    """
    with_manifest = [path for path in map(Path, parts) if (path / MANIFEST_NAME).is_file()]
    if not with_manifest:
        return None
    if len(with_manifest) < len(parts):
        bare = sorted({str(path) for path in parts} - {str(path) for path in with_manifest})
        raise ArtifactError(f"{bare[0]} has no {MANIFEST_NAME}, other parts have one")
    manifests = [RunManifest.read(path) for path in with_manifest]
    whole = manifests[0].renewed(created=max(m.created for m in manifests), parts=len(parts))
    intervals = []
    for path, manifest in zip(with_manifest, manifests, strict=True):
        check_identity(path, manifest, whole)
        for name, count in manifest.counts.items():
            whole.counts[name] = whole.counts[name] + count if name in whole.counts else count
        seconds = dict(manifest.seconds)
        if "ended" in seconds:
            intervals.append((seconds.pop("started"), seconds.pop("ended")))
        for name, value in seconds.items():
            whole.seconds[name] = round(whole.seconds.get(name, 0.0) + value, 3)
    if intervals:
        whole.seconds["total"] = round(covered_seconds(intervals), 3)
    return whole


def covered_seconds(intervals: Iterable[tuple[float, float]]) -> float:
    """Length of the union of intervals (start, end): overlaps count once, gaps not at all."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total


def _open_parts(store: Callable[[Path], ArrayFolder], parts: Sequence[Path]) -> None:
    """Open each part once before anything is written, and refuse parts of different kinds."""
    if not parts:
        raise ValueError("there are no parts to merge")
    first: dict[str, object] = {}
    for path in parts:
        index = {**store(path).index}
        for varying in ("image_ids", "has"):
            index.pop(varying, None)
        first = first or index
        for name in first.keys() | index.keys():
            if first.get(name) != index.get(name):
                raise ArtifactMismatchError(
                    f"{path} has {name} {index.get(name)!r}, the first part {parts[0]} has "
                    f"{first.get(name)!r}: they are not parts of one artifact"
                )


def merge_proposal_stores(
    parts: Sequence[Path],
    output: Path,
    *,
    manifest: RunManifest | None = None,
    overwrite: bool = False,
) -> None:
    """Join stores in order; the bytes are those of one writer, whatever the number of parts.

    ``manifest`` defaults to the sum of the parts' own, if they have one (`merge_manifests`).

    Raises:
        ArtifactMismatchError: the parts do not belong together.
    """
    _open_parts(ProposalStore.open, parts)
    names = ProposalStore.open(parts[0]).source_names
    with ProposalStoreWriter(output, source_names=names, overwrite=overwrite) as writer:
        writer.manifest = manifest or merge_manifests(parts)
        for store in map(ProposalStore.open, parts):
            for image_id in store.image_ids:
                item = store[image_id]
                writer.add(
                    image_id,
                    item.boxes,
                    scores=item.scores,
                    stability=item.stability,
                    sources=item.sources,
                    masks=item.masks,
                    image_size=item.image_size,
                )


def merge_cam_stores(
    parts: Sequence[Path],
    output: Path,
    *,
    manifest: RunManifest | None = None,
    overwrite: bool = False,
) -> None:
    """Join stores in order, as `merge_proposal_stores` does."""
    _open_parts(CamStore.open, parts)
    index = CamStore.open(parts[0]).index
    writer = CamStoreWriter(
        output,
        class_names=index["class_names"],
        network=index["network"],
        scales=index["scales"],
        normalize=index["normalize"],
        heads=index["heads"],
        blocks=index["blocks"],
        cross_rows=index["cross_rows"],
        overwrite=overwrite,
    )
    with writer:
        writer.manifest = manifest or merge_manifests(parts)
        for store in map(CamStore.open, parts):
            for image_id in store.image_ids:
                writer.add(image_id, store[image_id])


def merge_prompt_sets(
    parts: Sequence[Path],
    output: Path,
    *,
    manifest: RunManifest | None = None,
    overwrite: bool = False,
) -> None:
    """Join sets in order, as `merge_proposal_stores` does."""
    _open_parts(PromptSet.open, parts)
    first = PromptSet.open(parts[0])
    writer = PromptSetWriter(
        output,
        source_names=first.source_names,
        grid=first.grid,
        class_names=first.class_names,
        overwrite=overwrite,
    )
    with writer:
        writer.manifest = manifest or merge_manifests(parts)
        for prompts in map(PromptSet.open, parts):
            for image_id in prompts.image_ids:
                writer.add(image_id, prompts[image_id], prompts.image_size(image_id))
