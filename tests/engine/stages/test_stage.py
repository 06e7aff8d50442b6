"""Stages: skipped when complete, resumed by parts, redone or stopped when settings change."""

import argparse
import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from weaksam_d2.artifacts import (
    ArtifactError,
    ArtifactMismatchError,
    ProposalStore,
    ProposalStoreWriter,
    RunManifest,
    list_outputs,
    merge_proposal_stores,
    part_path,
    parts_root,
    write_json,
)
from weaksam_d2.engine.cli import add_parts_arguments, check_parts_arguments
from weaksam_d2.engine.stages.parts import run_parts
from weaksam_d2.engine.stages.stage import (
    StageRequest,
    StageResult,
    describe_records,
    run_stage,
)

RECORDS = [{"image_id": f"{i:04d}", "height": 20, "width": 30} for i in range(150)]


class Boxes:
    """Writes two boxes for each image; stops by an error after some parts, as a kill would."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.parts = 0
        self.fail_after = fail_after

    def __call__(self, records, path: Path, manifest: RunManifest) -> None:
        with ProposalStoreWriter(path, source_names=("Grid",)) as writer:
            writer.manifest = manifest
            for row, record in enumerate(records):
                if self.fail_after is not None and self.parts == self.fail_after and row == 5:
                    raise KeyboardInterrupt
                number = int(record["image_id"])
                boxes = np.array([[0, 0, 1 + number % 29, 5], [1, 1, 9, 9]], np.float32)
                writer.add(record["image_id"], boxes, image_size=(20, 30))
            manifest.counts = {"images": len(records)}
        self.parts += 1


def request(output: Path, config=None, **options) -> StageRequest:
    return StageRequest(
        stage="proposals",
        output=output,
        config=config or {"WEAKSAM.SAM.ARCH": "vit_t"},
        dataset=describe_records("set", RECORDS),
        **options,
    )


def test_interrupted_parts_are_resumed_to_the_same_bytes(tmp_path: Path) -> None:
    whole, killed = Boxes(), Boxes(fail_after=1)
    run_parts(request(tmp_path / "whole"), RECORDS, whole, merge_proposal_stores)
    with pytest.raises(KeyboardInterrupt):
        run_parts(request(tmp_path / "killed"), RECORDS, killed, merge_proposal_stores)
    assert not (tmp_path / "killed").exists()
    again = Boxes()
    manifest = run_parts(request(tmp_path / "killed"), RECORDS, again, merge_proposal_stores)
    assert (whole.parts, again.parts) == (3, 2)
    assert manifest is not None and manifest.counts == {"images": 150}
    first, second = list_outputs(tmp_path / "whole"), list_outputs(tmp_path / "killed")
    assert first == second
    assert len(ProposalStore.open(tmp_path / "killed")) == 150


def test_shards_together_equal_one_run(tmp_path: Path) -> None:
    run_parts(request(tmp_path / "one"), RECORDS, Boxes(), merge_proposal_stores)
    for shard in (1, 0):
        done = run_parts(
            request(tmp_path / "two", num_shards=2, shard=shard),
            RECORDS,
            Boxes(),
            merge_proposal_stores,
        )
        assert (done is None) == (shard == 1)
    assert list_outputs(tmp_path / "one") == list_outputs(tmp_path / "two")


def test_a_complete_artifact_is_skipped(tmp_path: Path) -> None:
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    again = Boxes()
    run_parts(request(tmp_path / "a"), RECORDS, again, merge_proposal_stores)
    assert again.parts == 0


def test_a_changed_setting_stops_a_tool_and_is_named(tmp_path: Path) -> None:
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    changed = request(tmp_path / "a", {"WEAKSAM.SAM.ARCH": "vit_b"})
    with pytest.raises(ArtifactMismatchError, match=r"SAM\.ARCH was 'vit_t' and is 'vit_b'"):
        run_parts(changed, RECORDS, Boxes(), merge_proposal_stores)


def test_a_changed_setting_is_redone_by_the_pipeline(tmp_path: Path, caplog) -> None:
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    changed = request(tmp_path / "a", {"WEAKSAM.SAM.ARCH": "vit_b"}, on_change="redo")
    again = Boxes()
    with caplog.at_level("WARNING"):
        run_parts(changed, RECORDS, again, merge_proposal_stores)
    assert again.parts == 3
    assert "was 'vit_t' and is 'vit_b'" in caplog.text


def test_a_changed_input_is_a_reason_to_redo(tmp_path: Path, caplog) -> None:
    source = tmp_path / "in.txt"
    runs = []

    def body(output: Path, resume: bool) -> StageResult:
        runs.append(resume)
        (output / "out.txt").write_text(source.read_text())
        return StageResult(counts={"lines": 1})

    def again() -> RunManifest:
        inputs = (("source", source),)
        return run_stage(request(tmp_path / "o", inputs=inputs, on_change="redo"), body)

    source.write_text("one")
    again()
    again()
    assert runs == [False]
    source.write_text("two")
    with caplog.at_level("WARNING"):
        manifest = again()
    assert runs == [False, False]
    assert "input source changed" in caplog.text
    assert (tmp_path / "o" / "out.txt").read_text() == "two"
    assert [row["name"] for row in manifest.outputs] == ["config.json", "out.txt"]


def test_an_interrupted_folder_stage_may_resume(tmp_path: Path) -> None:
    runs = []

    def body(output: Path, resume: bool) -> StageResult:
        runs.append(resume)
        if len(runs) == 1:
            raise KeyboardInterrupt
        return StageResult()

    with pytest.raises(KeyboardInterrupt):
        run_stage(request(tmp_path / "o"), body)
    assert RunManifest.read(tmp_path / "o").status == "running"
    assert run_stage(request(tmp_path / "o"), body).status == "complete"
    assert runs == [False, True]


def test_overwrite_redoes_an_equal_artifact(tmp_path: Path) -> None:
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    again = Boxes()
    forced = request(tmp_path / "a", overwrite=True)
    run_parts(forced, RECORDS, again, merge_proposal_stores)
    assert again.parts == 3


def test_no_path_of_the_machine_is_in_a_manifest(tmp_path: Path) -> None:
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    assert str(tmp_path) not in (tmp_path / "a" / "manifest.json").read_text()


def test_the_size_of_a_part_changes_no_byte_and_is_kept_when_resuming(tmp_path: Path) -> None:
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    with pytest.raises(KeyboardInterrupt):
        killed = Boxes(fail_after=2)
        run_parts(request(tmp_path / "b", part_size=40), RECORDS, killed, merge_proposal_stores)
    with pytest.raises(ArtifactError, match=r"parts of 40 images, --part-size is 64"):
        run_parts(request(tmp_path / "b", part_size=64), RECORDS, Boxes(), merge_proposal_stores)
    again = Boxes()
    run_parts(request(tmp_path / "b"), RECORDS, again, merge_proposal_stores)
    assert again.parts == 2
    assert list_outputs(tmp_path / "a") == list_outputs(tmp_path / "b")


def test_seconds_are_those_of_work_not_of_pauses_or_of_ranks_in_turn(tmp_path: Path) -> None:
    class Slow(Boxes):
        def __call__(self, records, path: Path, manifest: RunManifest) -> None:
            time.sleep(0.15)
            super().__call__(records, path, manifest)

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        run_parts(request(tmp_path / "a"), RECORDS, Slow(fail_after=1), merge_proposal_stores)
    worked = time.perf_counter() - start
    time.sleep(0.7)
    start = time.perf_counter()
    manifest = run_parts(request(tmp_path / "a"), RECORDS, Slow(), merge_proposal_stores)
    worked += time.perf_counter() - start
    assert manifest is not None
    assert 3 * 0.15 < manifest.seconds["process"] <= manifest.seconds["total"] + 0.002
    assert manifest.seconds["total"] < worked
    assert RunManifest.read(tmp_path / "a").seconds == manifest.seconds


def test_seconds_of_an_interrupted_training_are_not_lost(tmp_path: Path) -> None:
    def body(output: Path, resume: bool) -> StageResult:
        (output / "checkpoint").write_text("x")
        if not resume:
            # As if the run had worked for an hour before it was killed.
            later = time.time() + 3600
            os.utime(output / "checkpoint", (later, later))
            raise KeyboardInterrupt
        return StageResult()

    with pytest.raises(KeyboardInterrupt):
        run_stage(request(tmp_path / "o"), body)
    assert 3590 < run_stage(request(tmp_path / "o"), body).seconds["total"] < 3700


def test_a_part_made_by_another_process_meanwhile_is_kept(tmp_path: Path) -> None:
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    other, rival = Boxes(), Boxes()

    def late(records, path: Path, manifest: RunManifest) -> None:
        if not path.exists() and path.name.endswith("1"):
            rival(records, path, manifest)  # the other process publishes first
        other(records, path, manifest)

    run_parts(request(tmp_path / "b"), RECORDS, late, merge_proposal_stores)
    assert rival.parts == 1
    assert list_outputs(tmp_path / "a") == list_outputs(tmp_path / "b")


def test_parts_left_beside_a_complete_artifact_are_removed(tmp_path: Path) -> None:
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    root = parts_root(tmp_path / "a")
    part_path(root, 0).mkdir(parents=True)
    write_json(part_path(root, 0) / "index.json", {})
    run_parts(request(tmp_path / "a"), RECORDS, Boxes(), merge_proposal_stores)
    assert not root.exists()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--num-gpus", "2", "--num-shards", "2"], "either ranks .* or --num-shards"),
        (["--num-shards", "2", "--overwrite"], "remove out and out.parts yourself"),
        (["--num-machines", "2", "--machine-rank", "2"], r"must be in \[0, 2\)"),
        (["--part-size", "-1"], "must be positive"),
    ],
)
def test_contradicting_flags_are_a_usage_error(
    flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    for name in ("--num-shards", "--shard"):
        parser.add_argument(name, type=int, default=1)
    parser.add_argument("--overwrite", action="store_true")
    parser.add_argument("--output", type=Path, default=Path("out"))
    add_parts_arguments(parser)
    with pytest.raises(SystemExit) as stop:
        check_parts_arguments(parser, parser.parse_args(flags))
    assert stop.value.code == 2
    assert re.search(message, capsys.readouterr().err)
