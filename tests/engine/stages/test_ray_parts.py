"""Parts as Ray tasks: with Ray itself where it is installed, else with the little that is used."""

import argparse
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from weaksam_d2.artifacts import ProposalStoreWriter, RunManifest, list_outputs
from weaksam_d2.artifacts import merge_proposal_stores as merge
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.stages.parts import run_parts
from weaksam_d2.engine.stages.ray_parts import ray_dispatch
from weaksam_d2.engine.stages.stage import StageRequest, describe_records

RECORDS = [{"image_id": f"{i:02d}", "height": 20, "width": 30} for i in range(10)]


def write(records: Any, path: Path, manifest: RunManifest) -> None:
    with ProposalStoreWriter(path) as writer:
        writer.manifest = manifest
        for record in records:
            box = np.array([[0, 0, 1 + int(record["image_id"]), 5]], np.float32)
            writer.add(record["image_id"], box, image_size=(20, 30))
        manifest.counts = {"images": len(records)}


def main(args: argparse.Namespace) -> RunManifest | None:
    """A tool in small: with ``args.ray`` its parts are tasks, which are this function again."""
    if args.ray is None and args.lost is not None and args.shard == args.lost:
        raise RuntimeError("this task is lost each time")
    asked = StageRequest(
        stage="proposals",
        output=args.output,
        config={},
        dataset=describe_records("set", RECORDS),
        num_shards=args.num_shards,
        shard=args.shard,
        part_size=args.part_size,
        join=args.join,
        dispatch=None if args.ray is None else ray_dispatch(main, args, args.cfg),
    )
    return run_parts(asked, RECORDS, write, merge)


def arguments(output: Path, **changes: Any) -> argparse.Namespace:
    cfg = base_config()
    cfg.MODEL.DEVICE, cfg.WEAKSAM.RAY.MAX_RETRIES = "cpu", 1
    values = dict(
        output=output, input=None, config_file="x.yaml", ray="local", num_shards=1, shard=0,
        part_size=3, overwrite=False, join=True, lost=None, cfg=cfg,
    )  # fmt: skip
    return argparse.Namespace(**{**values, **changes})


class RayError(Exception):
    pass


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[dict[str, Any], int]]:
    """Stand in for Ray: run tasks at once, keep their errors for ``get``; record what ran."""
    ran: list[tuple[dict[str, Any], int]] = []

    def remote(**options: Any) -> Any:
        def task(function: Any) -> Any:
            def submit(work: Any, args: argparse.Namespace, part: int) -> Any:
                ran.append((options, part))
                try:
                    return (part, function(work, argparse.Namespace(**vars(args)), part))
                except RuntimeError as error:
                    return (part, RayError(str(error)))

            return types.SimpleNamespace(remote=submit)

        return task

    def get(task: Any) -> None:
        if isinstance(task[1], RayError):
            raise task[1]

    ray = types.ModuleType("ray")
    stand_in = {
        "init": lambda **options: None,
        "shutdown": lambda: None,
        "is_initialized": lambda: False,
        "remote": remote,
        "get": get,
        "wait": lambda left, **options: (left[:1], left[1:]),
        "exceptions": types.SimpleNamespace(RayError=RayError),
    }
    for name, value in stand_in.items():
        setattr(ray, name, value)
    monkeypatch.setitem(sys.modules, "ray", ray)
    return ran


def test_each_missing_part_is_one_task_and_the_driver_joins_them(
    tasks: list[tuple[dict[str, Any], int]], tmp_path: Path
) -> None:
    main(arguments(tmp_path / "plain", ray=None))
    assert main(arguments(tmp_path / "half", ray=None, num_shards=2, shard=1)) is None
    manifest = main(arguments(tmp_path / "half"))
    assert tasks == [({"num_cpus": 1.0, "num_gpus": 0.0, "max_retries": 1}, p) for p in (0, 2)]
    assert manifest is not None and manifest.counts == {"images": 10}
    assert list_outputs(tmp_path / "half") == list_outputs(tmp_path / "plain")
    assert not list(tmp_path.glob("*.parts"))


def test_a_part_whose_task_is_lost_is_made_by_the_driver(
    tasks: list[tuple[dict[str, Any], int]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    main(arguments(tmp_path / "plain", ray=None))
    with caplog.at_level("WARNING"):
        assert main(arguments(tmp_path / "lossy", lost=2)) is not None
    assert "part 2 is made here, its task failed: this task is lost" in caplog.text
    assert list_outputs(tmp_path / "lossy") == list_outputs(tmp_path / "plain")


def test_without_ray_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'weaksam_d2\[ray\]'"):
        main(arguments(tmp_path / "out"))


def test_ray_itself_repeats_the_task_of_a_killed_worker(tmp_path: Path) -> None:
    """Skipped where the extra is not installed, as in the locked environment."""
    ray = pytest.importorskip("ray", reason="the extra weaksam_d2[ray] is not installed")
    main(arguments(tmp_path / "plain", ray=None))
    marker = tmp_path / "killed"

    def fragile(args: argparse.Namespace) -> RunManifest | None:
        import os
        import signal

        if args.ray is None and args.shard == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return main(args)

    args = arguments(tmp_path / "out")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    args.dispatch = ray_dispatch(fragile, args, args.cfg)
    asked = StageRequest(
        stage="proposals",
        output=args.output,
        config={},
        dataset=describe_records("set", RECORDS),
        part_size=3,
        dispatch=args.dispatch,
    )
    made_here: list[Path] = []

    def count(records: Any, path: Path, manifest: RunManifest) -> None:
        made_here.append(path)
        write(records, path, manifest)

    run_parts(asked, RECORDS, count, merge)
    assert marker.exists() and not made_here, "the killed part was not repeated by Ray"
    assert list_outputs(tmp_path / "out") == list_outputs(tmp_path / "plain")
