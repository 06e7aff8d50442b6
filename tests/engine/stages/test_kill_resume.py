"""Artifacts made in parts survive kill -9 at any moment, alone or by one rank of several.

Most kills hit forked processes that run the stages themselves, one hits a rank of the real tool;
tests/tools/test_run_pipeline.py kills the real tool itself.
"""

import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import (
    ProposalStoreWriter,
    RunManifest,
    list_outputs,
    merge_proposal_stores,
    sha256_file,
)
from weaksam_d2.data import prepare_datasets, register_tagged_folder
from weaksam_d2.engine import cli
from weaksam_d2.engine.stages.image_stages import (
    Placement,
    cams_stage,
    prompts_stage,
    proposals_stage,
)
from weaksam_d2.engine.stages.parts import run_parts
from weaksam_d2.engine.stages.stage import StageRequest, describe_records

REPO = Path(__file__).resolve().parents[3]
RECORDS = [{"image_id": f"{i:03d}", "height": 20, "width": 30} for i in range(60)]
PARTS = 20
SECONDS = 0.02  # for each image


def write_slowly(records: Any, path: Path, manifest: RunManifest) -> None:
    with ProposalStoreWriter(path, source_names=("Grid",)) as writer:
        writer.manifest = manifest
        for record in records:
            time.sleep(SECONDS)
            number = int(record["image_id"])
            boxes = np.array([[0, 0, 1 + number % 29, 5], [1, 1, 9, 9]], np.float32)
            writer.add(record["image_id"], boxes, image_size=(20, 30))
        manifest.counts = {"images": len(records)}


def write_and_stall(parts: int) -> Callable[..., None]:
    """Write that many parts, then stay in the middle of one: a late kill still finds it there."""
    left = [parts]

    def process(records: Any, path: Path, manifest: RunManifest) -> None:
        if not left[0]:
            with ProposalStoreWriter(path, source_names=("Grid",)) as writer:
                writer.add(records[0]["image_id"], np.zeros((0, 4)), image_size=(20, 30))
                time.sleep(3600)
        left[0] -= 1
        write_slowly(records, path, manifest)

    return process


def make(output: Path, process: Callable[..., None] = write_slowly, **options: Any) -> Any:
    asked = StageRequest(
        stage="proposals",
        output=output,
        config={"WEAKSAM.SAM.ARCH": "vit_t"},
        dataset=describe_records("set", RECORDS),
        **{"part_size": 3, **options},
    )
    return run_parts(asked, RECORDS, process, merge_proposal_stores)


def start(work: Callable[[], Any]) -> int:
    """The id of a forked process that does some work; it needs no new interpreter."""
    pid = os.fork()
    if pid:
        return pid
    try:
        torch.set_num_threads(1)
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def kill(pid: int) -> bool:
    """Kill a process of ours; whether it was still running."""
    os.kill(pid, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(pid, 0)[1])


def ended_well(pid: int) -> bool:
    return os.waitpid(pid, 0)[1] == 0


def files(folder: Path) -> dict[str, str]:
    """Hashes of all files but the manifest, which holds times."""
    names = sorted(path.name for path in folder.iterdir() if path.name != "manifest.json")
    return {name: sha256_file(folder / name) for name in names}


def parts_of(output: Path) -> list[Path]:
    return sorted(output.with_name(output.name + ".parts").glob("part-*"))


def wait_for_parts(
    output: Path, count: int, process: "subprocess.Popen[str] | None" = None
) -> None:
    deadline = time.monotonic() + 600
    while len(parts_of(output)) < count:
        running = process is None or process.poll() is None
        assert running and time.monotonic() < deadline, "the parts did not appear"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    output = tmp_path_factory.mktemp("whole") / "out"
    make(output, part_size=64)
    return files(output)


def test_ten_kills_at_random_moments_leave_no_trace(whole: dict[str, str], tmp_path: Path) -> None:
    output, rng, seen = tmp_path / "out", random.Random(7), [0]
    for _ in range(10):
        pid = start(lambda: make(output, write_and_stall(1)))
        wait_for_parts(output, seen[-1] + 1)  # one part more than before
        time.sleep(rng.uniform(0, 3 * SECONDS))
        assert kill(pid), "it ended before the kill"
        seen.append(len(parts_of(output)))
        assert not output.exists()
    assert seen == list(range(11))
    kept = {path: path.stat().st_mtime_ns for path in parts_of(output)}
    made: list[Path] = []

    def count(records: Any, path: Path, manifest: RunManifest) -> None:
        made.append(path)
        write_slowly(records, path, manifest)

    manifest = make(output, count)
    assert len(made) == PARTS - len(kept) and not set(made) & set(kept)
    assert files(output) == whole
    assert os.listdir(tmp_path) == ["out"], "a killed process left something behind"
    assert manifest.counts == {"images": 60}


def test_a_kill_while_the_parts_are_joined_is_no_loss(
    whole: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step it falls on: each one is cut here in turn."""
    from weaksam_d2.engine.stages import parts

    for step in ("merge_manifests", "write_json", "move_folder", "_remove_parts"):
        output = tmp_path / step / "out"

        def stop(*args: Any) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        with monkeypatch.context() as patch:
            patch.setattr(parts, step, stop)
            pid = start(lambda output=output: make(output, part_size=30))
            assert not ended_well(pid)
        assert output.exists() == (step == "_remove_parts")
        make(output, part_size=0)
        assert files(output) == whole
        assert os.listdir(tmp_path / step) == ["out"]


def test_the_others_do_the_parts_of_a_killed_rank(whole: dict[str, str], tmp_path: Path) -> None:
    output, rng = tmp_path / "out", random.Random(1)
    work = (write_slowly, write_and_stall(1))
    ranks = [
        start(lambda r=r: make(output, work[r], num_shards=2, shard=r, take_over=True, join=r == 0))
        for r in (0, 1)
    ]
    wait_for_parts(output, 4)
    time.sleep(rng.uniform(0, 3 * SECONDS))
    assert kill(ranks[1])
    assert ended_well(ranks[0])
    assert files(output) == whole
    assert os.listdir(tmp_path) == ["out"]


def test_without_rank_0_all_parts_are_made_and_joined_later(
    whole: dict[str, str], tmp_path: Path
) -> None:
    output = tmp_path / "out"
    work = (write_and_stall(1), write_slowly)
    ranks = [
        start(lambda r=r: make(output, work[r], num_shards=2, shard=r, take_over=True, join=r == 0))
        for r in (0, 1)
    ]
    wait_for_parts(output, 2)
    assert kill(ranks[0])
    assert ended_well(ranks[1])
    assert len(parts_of(output)) == PARTS and not output.exists()

    def refuse(*args: Any) -> None:
        raise AssertionError("a part was made twice")

    make(output, refuse)
    assert files(output) == whole


def test_processes_that_do_the_same_parts_do_not_disturb_each_other(
    whole: dict[str, str], tmp_path: Path
) -> None:
    """As when the pipeline runs while shards of the same stage run elsewhere."""
    output = tmp_path / "out"
    pids = [start(lambda: make(output)) for _ in range(2)]
    pids.append(start(lambda: make(output, num_shards=3, shard=1)))
    assert all([ended_well(pid) for pid in pids])
    assert files(output) == whole
    assert os.listdir(tmp_path) == ["out"]


# ── the stages for maps and prompts ──────────────────────────────────────────────────────────────


@pytest.fixture
def birds(tmp_path: Path) -> Iterator[str]:
    folder = tmp_path / "photos"
    folder.mkdir()
    rng, lines = np.random.default_rng(0), []
    for i in range(8):
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{('duck', 'swan', 'duck;swan')[i % 3]}\n")
    (tmp_path / "tags.csv").write_text("".join(lines))
    register_tagged_folder("kill_birds", image_root=folder, tags=tmp_path / "tags.csv")
    yield "kill_birds"
    DatasetCatalog.remove("kill_birds")
    MetadataCatalog.remove("kill_birds")


def classifier_config() -> Any:
    cfg = cli.base_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "test_efficientnet", (2, 3)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.DATASETS.TRAIN, cfg.INPUT.MIN_SIZE_TEST = ("kill_birds",), 64
    cfg.WEAKSAM.PROMPTS.SOURCES = ("CoarseCAMPeaks",)
    return cfg


def killed_and_resumed(output: Path, stage: Callable[[Placement], Any]) -> None:
    """Kill the stage twice after new parts, then let it end."""
    for count in (1, 3):
        pid = start(lambda: stage(Placement(output, part_size=1)))
        wait_for_parts(output, count)
        kill(pid)
    assert not output.exists()
    assert ended_well(start(lambda: stage(Placement(output))))


def test_killed_maps_and_prompts_are_resumed_to_the_same_bytes(
    birds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detectron2.modeling import build_model

    from weaksam_d2.engine.stages import image_stages

    cfg = classifier_config()
    torch.manual_seed(0)
    weights = tmp_path / "model.pth"
    torch.save({"model": build_model(cfg).state_dict()}, weights)
    for name in ("generate_cams", "generate_prompts"):
        quick = getattr(image_stages, name)

        def slow(*args: Any, quick: Any = quick, **options: Any) -> Any:
            time.sleep(5 * SECONDS)
            return quick(*args, **options)

        monkeypatch.setattr(image_stages, name, slow)

    def cams(place: Placement) -> Any:
        return cams_stage(cfg, birds, weights, place)

    def prompts(place: Placement) -> Any:
        return prompts_stage(cfg, birds, tmp_path / "cams", place)

    for name, stage in (("cams", cams), ("prompts", prompts)):
        assert ended_well(start(lambda name=name, stage=stage: stage(Placement(tmp_path / name))))
        again = tmp_path / f"{name}_killed"
        killed_and_resumed(again, stage)
        assert files(again) == files(tmp_path / name)
        assert RunManifest.read(again).counts == RunManifest.read(tmp_path / name).counts


# ── the real tool ────────────────────────────────────────────────────────────────────────────────


CONFIG = str(REPO / "configs/pipelines/scenes_quick.yaml")


def options_of(tmp_path: Path) -> list[str]:
    return [
        *("DATASETS.TRAIN", "('photos',)", "DATASETS.TEST", "()", "WEAKSAM.SAM.BACKEND", "FakeSam"),
        *("DATASETS.TAGGED", f"(('photos','{tmp_path / 'photos'}','{tmp_path / 'tags.csv'}'),)"),
        *("WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE", "12", "PIPELINE.CAMS_CONFIG", ""),
    ]


def tool(tmp_path: Path, output: str, *flags: str) -> list[str]:
    script = str(REPO / "tools/generate_proposals.py")
    flags = ("--config-file", CONFIG, "--output", str(tmp_path / output), *flags)
    return [sys.executable, script, *flags, *options_of(tmp_path)]


def undisturbed(tmp_path: Path) -> dict[str, str]:
    """What the tool makes, made in this process."""
    cfg = cli.base_config()
    cfg.merge_from_file(CONFIG)
    cfg.merge_from_list(options_of(tmp_path))
    cli.resolve_device(cfg)
    prepare_datasets(cfg)
    try:
        proposals_stage(cfg, "photos", None, Placement(tmp_path / "whole"))
    finally:
        DatasetCatalog.remove("photos")
        MetadataCatalog.remove("photos")
    return files(tmp_path / "whole")


def environment() -> dict[str, str]:
    return {**os.environ, **cli.PROCESS_ENVIRONMENT, "OMP_NUM_THREADS": "1"}


@contextmanager
def launched(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A running tool; it and its ranks are gone at the end, however the test goes."""
    process = subprocess.Popen(
        command,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def rank_processes(parent: int) -> list[int]:
    """Process ids of the ranks that the tool has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_text() for pid in children}
    return sorted(pid for pid, command in commands.items() if "spawn_main" in command)


@pytest.mark.skipif(sys.platform != "linux", reason="finds the ranks below /proc")
def test_the_real_tool_finishes_although_one_of_its_ranks_is_killed(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    rng = np.random.default_rng(0)
    for i in range(12):
        pixels = rng.integers(0, 256, (240, 320, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"photos/{i:02d}.png")
    (tmp_path / "tags.csv").write_text("".join(f"{i:02d}.png,noise\n" for i in range(12)))
    whole = undisturbed(tmp_path)
    with launched(tool(tmp_path, "ranks", "--part-size", "1", "--num-gpus", "2")) as process:
        wait_for_parts(tmp_path / "ranks", 1, process)
        os.kill(rank_processes(process.pid)[1], signal.SIGKILL)
        log, _ = process.communicate(timeout=600)
        assert process.returncode == 0, log[-3000:]
    assert "ranks ended early" in log and "{1: -9}" in log
    assert files(tmp_path / "ranks") == whole
    assert list_outputs(tmp_path / "ranks") == list_outputs(tmp_path / "whole")
    assert not list(tmp_path.glob("*.parts"))
