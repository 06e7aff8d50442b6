"""Which part a process makes next, and what it knows of the others by their folder alone."""

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from weaksam_d2.artifacts import part_path, part_ranges
from weaksam_d2.engine.stages.part_plan import PartPlan, foreign_parts, own_parts
from weaksam_d2.engine.stages.progress import PartsProgress, PartTaken


def plan_of(root: Path, images: int = 12, done: Sequence[int] = (), begun: Sequence[int] = ()):
    root.mkdir(parents=True)
    (root / "parts.json").write_text("{}")
    for p in done:
        part_path(root, p).mkdir()
    for p in begun:
        (root / f".part-{p:06d}.tmp-1-abcd").mkdir()
    return PartPlan(root, part_ranges(images, 2))


def test_the_folder_tells_what_is_done_and_begun(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "x.parts", images=11, done=(0, 5), begun=(2,))
    assert plan.missing() == [1, 2, 3, 4] and plan.begun() == {2}
    assert plan.images_done() == 3  # the last part has one image
    (plan.root / "parts.json").unlink()
    assert plan.missing() == [] and not plan.is_open and plan.images_done() == 11


def test_own_parts_come_in_order_and_begun_ones_last(tmp_path: Path) -> None:
    plan, made = plan_of(tmp_path / "x.parts", done=(4,), begun=(0,)), []
    for p in own_parts(plan, 2, 0):
        made.append(p)
        part_path(plan.root, p).mkdir()
    assert made == [2, 0]
    assert plan.missing() == [1, 3, 5]


def test_ranks_take_over_from_different_ends_and_wait_for_parts_that_were_begun(
    tmp_path: Path,
) -> None:
    plan, made, waits = plan_of(tmp_path / "x.parts", done=(0,), begun=(3,)), [], []
    start = time.monotonic()
    for p in foreign_parts(plan, 2, 0, lambda: 0.3, lambda: waits.append(len(made))):
        made.append(p)
        part_path(plan.root, p).mkdir()
    assert made == [5, 4, 2, 1, 3]
    assert set(waits) == {4} and time.monotonic() - start >= 0.3
    again = plan_of(tmp_path / "y.parts", done=(0,), begun=(3,))
    assert next(foreign_parts(again, 2, 1, lambda: 0.0, lambda: None)) == 2


def test_a_rank_that_waits_leaves_when_the_other_one_is_done(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "x.parts", done=(0, 1, 2, 3, 4), begun=(5,))
    assert not list(foreign_parts(plan, 2, 0, lambda: 60.0, part_path(plan.root, 5).mkdir))


def test_progress_counts_the_parts_of_all_and_its_own_images(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plan = plan_of(tmp_path / "x.parts", done=(0, 1))
    progress = PartsProgress("boxes", 12, shown=False, prefix="rank 1")
    progress.watch(plan)
    progress.begin(2)
    progress.update()
    part_path(plan.root, 5).mkdir()  # another rank
    progress.update()
    part_path(plan.root, 2).mkdir()
    time.sleep(0.05)
    with caplog.at_level("INFO"):
        progress.finish(1.5)
    assert "boxes: rank 1: part 2, 2 images in 1.5 s; all: 8 of 12 images" in caplog.text
    rate = float(caplog.text.split(" images/s")[0].split()[-1])
    assert 0 < rate <= 4 / 0.05, "images of an earlier run must not count"
    progress.close()


def test_a_process_leaves_a_part_that_another_one_has_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weaksam_d2.engine.stages.progress.LOOK_SECONDS", 0.0)
    plan = plan_of(tmp_path / "x.parts")
    progress = PartsProgress("boxes", 12, shown=False)
    progress.watch(plan)
    progress.begin(3)
    progress.update()
    part_path(plan.root, 3).mkdir()
    with pytest.raises(PartTaken):
        progress.update()
