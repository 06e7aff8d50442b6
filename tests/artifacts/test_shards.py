"""Parts: who does which, what is left, and merged bytes equal to one writer's."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from weaksam_d2.artifacts import (
    ArtifactError,
    ArtifactMismatchError,
    CamMaps,
    CamStoreWriter,
    Prompts,
    PromptSetWriter,
    ProposalStoreWriter,
    RunManifest,
    describe_dataset,
    list_outputs,
    make_peaks,
    merge_cam_stores,
    merge_manifests,
    merge_prompt_sets,
    merge_proposal_stores,
    part_path,
    part_ranges,
    parts_root,
    pending_parts,
    shard_parts,
)
from weaksam_d2.artifacts.shards import covered_seconds

IMAGES = 7
SOURCES = ("coarse", "cross")


def write_proposals(path: Path, images: range, manifest: RunManifest | None = None) -> None:
    with ProposalStoreWriter(path, source_names=SOURCES) as writer:
        writer.manifest = manifest
        for i in images:
            n = 0 if i in (0, 4) else i
            boxes = [[j, 0, j + 1 + 1 / 3, i] for j in range(n)]
            masks = [bytes([65 + j]) * (i + j) for j in range(n)]
            writer.add(str(i), boxes, sources=[j % 2 for j in range(n)], masks=masks,
                       stability=[1 / (j + 3) for j in range(n)], image_size=(20, 30))  # fmt: skip


def write_cams(path: Path, images: range, manifest: RunManifest | None = None) -> None:
    writer = CamStoreWriter(
        path, class_names="abc", network="CNN", scales=(1.0, 0.8), heads=2, blocks=(1, 2)
    )
    with writer:
        writer.manifest = manifest
        for i in images:
            rng, m = np.random.default_rng(i), (0, 1, 3)[i % 3]
            coarse = tuple(rng.normal(size=(m, 2 + i, 3)) for _ in range(2))
            cross = tuple(rng.normal(size=(m, 2, 2, 2 + i, 3)) for _ in range(2))
            maps = CamMaps((20, 30), np.arange(m), coarse, cross=cross if m else None)
            writer.add(str(i), maps)


def write_prompts(path: Path, images: range, manifest: RunManifest | None = None) -> None:
    with PromptSetWriter(path, source_names=SOURCES, grid={"points_per_side": 8}) as writer:
        writer.manifest = manifest
        for i in images:
            n = i % 3
            peaks = make_peaks(
                [[i, 1], [2, 3], [4, i]], scores=1, classes=i, heads=0, blocks=i, prompts=[1, 0, 1]
            )
            prompts = Prompts(
                points=np.random.default_rng(i).uniform(0, 20, (2 * n, 2)),
                offsets=np.arange(n + 1) * 2,
                scores=np.ones(n),
                classes=np.full(n, -1),
                sources=np.arange(n),
                source_names=SOURCES,
                boxes=[[0, 0, 1, 1], [np.nan] * 4] if i == 5 else None,
                peaks=peaks if n == 2 else None,
            )
            writer.add(str(i), prompts, (20, 30))


KINDS: list[tuple[Callable[..., None], Callable[..., None]]] = [
    (write_proposals, merge_proposal_stores),
    (write_cams, merge_cam_stores),
    (write_prompts, merge_prompt_sets),
]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64])
@pytest.mark.parametrize(("write", "merge"), KINDS, ids=["proposals", "cams", "prompts"])
def test_merged_bytes_do_not_depend_on_the_parts(
    tmp_path: Path, write: Callable[..., None], merge: Callable[..., None], size: int
) -> None:
    write(tmp_path / "one", range(IMAGES))
    parts = []
    for p, images in enumerate(part_ranges(IMAGES, size)):
        parts.append(part_path(parts_root(tmp_path / "out"), p))
        write(parts[-1], images)
    merge(parts, tmp_path / "out")
    assert list_outputs(tmp_path / "out") == list_outputs(tmp_path / "one")


@pytest.mark.parametrize(("write", "merge"), KINDS, ids=["proposals", "cams", "prompts"])
def test_merge_of_an_empty_data_set(
    tmp_path: Path, write: Callable[..., None], merge: Callable[..., None]
) -> None:
    for p, images in enumerate(part_ranges(0)):
        write(part_path(tmp_path, p), images)
    merge([part_path(tmp_path, 0)], tmp_path / "out")
    assert list_outputs(tmp_path / "out") == list_outputs(part_path(tmp_path, 0))


@pytest.mark.parametrize("merge", [merge for _, merge in KINDS])
def test_merge_of_nothing_is_refused(tmp_path: Path, merge: Callable[..., None]) -> None:
    with pytest.raises(ValueError, match="no parts to merge"):
        merge([], tmp_path / "out")


def test_merge_refuses_parts_of_different_kinds(tmp_path: Path) -> None:
    write_proposals(tmp_path / "a", range(2))
    with ProposalStoreWriter(tmp_path / "b", source_names=("grid",)) as writer:
        writer.add("x", [], image_size=(1, 1))
    with pytest.raises(ArtifactMismatchError, match="b has source_names"):
        merge_proposal_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_merge_refuses_an_image_in_two_parts(tmp_path: Path) -> None:
    write_proposals(tmp_path / "a", range(2))
    write_proposals(tmp_path / "b", range(1, 3))
    with pytest.raises(ValueError, match="'1' was added .* twice"):
        merge_proposal_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_parts_cover_every_image_once_in_order() -> None:
    assert part_ranges(130) == [range(0, 64), range(64, 128), range(128, 130)]
    assert part_ranges(64) == [range(0, 64)] and part_ranges(0) == [range(0, 0)]
    with pytest.raises(ValueError, match="got size 0"):
        part_ranges(5, 0)


def test_shards_do_every_part_once() -> None:
    assert shard_parts([0, 2, 3, 5], 2, 1) == [3, 5]
    assert sorted(p for k in range(3) for p in shard_parts(range(8), 3, k)) == list(range(8))
    with pytest.raises(ValueError, match=r"\[0, 2\) for --num-shards, got 2"):
        shard_parts([0], 2, 2)


def run_manifest(**change: object) -> RunManifest:
    fields = {
        "stage": "proposals",
        "config_sha256": "c0",
        "dataset": describe_dataset("birds", [str(i) for i in range(IMAGES)]),
        "counts": {"images": 2},
        "seconds": {"total": 1.5},
        "parts": 3,
    }
    return RunManifest(**{**fields, **change})


def test_only_missing_parts_are_pending_and_the_manifests_add_up(tmp_path: Path) -> None:
    root = parts_root(tmp_path / "out")
    assert root.name == "out.parts" and part_path(root, 7).name == "part-000007"
    ranges = part_ranges(IMAGES, 3)
    assert pending_parts(root, run_manifest(), 3) == [0, 1, 2]
    write_proposals(part_path(root, 1), ranges[1], run_manifest())
    assert pending_parts(root, run_manifest(), 3) == [0, 2]
    for p in (0, 2):
        write_proposals(part_path(root, p), ranges[p], run_manifest())
    assert pending_parts(root, run_manifest(), 3) == []
    merge_proposal_stores([part_path(root, p) for p in range(3)], tmp_path / "out")
    whole = RunManifest.read(tmp_path / "out")
    assert whole.identity() == run_manifest().identity() and whole.parts == 3
    assert whole.counts == {"images": 6} and whole.seconds == {"total": 4.5}
    assert whole.outputs == list_outputs(tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"config_sha256": "c1"}, "config_sha256"),
        ({"dataset": describe_dataset("birds", ["0"])}, "dataset"),
        ({"inputs": [{"name": "prompts", "sha256": "x", "bytes": 1}]}, "inputs"),
    ],
)
def test_part_of_another_run_stops_with_both_hashes(
    tmp_path: Path, change: dict[str, object], name: str
) -> None:
    write_proposals(part_path(tmp_path, 0), range(2), run_manifest())
    expected = run_manifest(**change)
    with pytest.raises(ArtifactMismatchError, match=f"part-000000.*{name} differ") as error:
        pending_parts(tmp_path, expected, 3)
    message = str(error.value)
    assert expected.identity() in message and run_manifest().identity() in message
    assert "--overwrite" in message


def test_other_number_of_parts_stops(tmp_path: Path) -> None:
    write_proposals(part_path(tmp_path, 0), range(2), run_manifest())
    with pytest.raises(ArtifactMismatchError, match="one of 3 parts, expected 4"):
        pending_parts(tmp_path, run_manifest(), 4)


def test_part_without_manifest_or_bytes_stops(tmp_path: Path) -> None:
    write_proposals(part_path(tmp_path, 0), range(2))
    with pytest.raises(ArtifactError, match="part-000000 has no manifest.json"):
        pending_parts(tmp_path, run_manifest(), 3)
    write_proposals(part_path(tmp_path / "x", 0), range(2), run_manifest())
    (part_path(tmp_path / "x", 0) / "boxes.npy").write_bytes(b"")
    with pytest.raises(ArtifactError, match="boxes.npy has 0 bytes, expected"):
        pending_parts(tmp_path / "x", run_manifest(), 3)


def test_merge_refuses_parts_of_two_runs(tmp_path: Path) -> None:
    write_proposals(tmp_path / "a", range(2), run_manifest())
    write_proposals(tmp_path / "b", range(2, 4), run_manifest(config_sha256="c1"))
    with pytest.raises(ArtifactMismatchError, match="another run"):
        merge_proposal_stores([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_time_is_covered_once_by_overlapping_parts_and_not_by_pauses() -> None:
    # Two ranks from 0 to 10 and 4 to 12; a pause; one part from 20 to 21, another inside it.
    assert covered_seconds([(20, 21), (0, 10), (4, 12), (20.2, 20.7)]) == 13
    assert covered_seconds([]) == 0


def test_times_of_parts_are_joined(tmp_path: Path) -> None:
    times = [(100.0, 110.0), (104.0, 112.0)]
    for p, (start, end) in enumerate(times):
        seconds = {"started": start, "ended": end, "process": end - start}
        run_manifest(seconds=seconds).write(tmp_path / f"{p}.json")
        part_path(tmp_path, p).mkdir()
        (tmp_path / f"{p}.json").rename(part_path(tmp_path, p) / "manifest.json")
    whole = merge_manifests([part_path(tmp_path, p) for p in range(2)])
    assert whole is not None and whole.seconds == {"process": 18.0, "total": 12.0}
