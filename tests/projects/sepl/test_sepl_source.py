"""SEPL as a label source: through the stage in one run, in shards, killed and resumed."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from weaksam_d2.projects.sepl import (
    PAPER,
    REFERENCE,
    SEPL,
    MaskSet,
    build_sepl_settings,
    enhance_labels,
)

from weaksam_d2.artifacts import (
    ArtifactError,
    ProposalStoreWriter,
    SemSegLabels,
    SemSegLabelsWriter,
    sha256_file,
    write_json,
    write_label_png,
)
from weaksam_d2.data import weak_records
from weaksam_d2.data.label_sources import LABEL_SOURCE_REGISTRY
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.label_stages import labels_stage
from weaksam_d2.evaluation import evaluate_labels
from weaksam_d2.evaluation.label_truth import truth_reader
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.ops import encode_rle

SIZE = (24, 32)


def files(folder: Path) -> dict[str, str]:
    """Hashes of all files but the manifest, which holds times."""
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.name != "manifest.json"]
    return {str(path.relative_to(folder)): sha256_file(path) for path in paths}


def source(cfg: Any, world: Any, **changed: Path) -> Any:
    return LABEL_SOURCE_REGISTRY.get("SEPL")(cfg, {**world.inputs, **changed}, world.space)


def test_the_stage_writes_what_the_function_gives(world: Any, make_cfg: Any) -> None:
    manifest = labels_stage(make_cfg(), "sepl_tiny", world.inputs, Placement(world.root / "out"))
    made, seeds = SemSegLabels.open(world.root / "out"), SemSegLabels.open(world.inputs["input"])
    assert (made.system, made.base, made.supervision) == ("SEPL", "paper", "image_labels")
    assert manifest is not None and manifest.counts["images"] == 10
    store = source(make_cfg(), world)._masks
    for record in weak_records("sepl_tiny"):
        image_id = str(record["image_id"])
        masks = MaskSet.of(store[image_id])
        expected, flags = enhance_labels(seeds[image_id], masks, settings=PAPER)
        np.testing.assert_array_equal(made[image_id], expected)
        assert tuple(made.entry(image_id)["flags"]) == flags
        assert made.entry(image_id)["tags"] == record["image_labels"]
    truth = truth_reader("sepl_tiny")
    before, after = (
        evaluate_labels(labels, truth, world.space, image_ids=truth.image_ids).summary()["mIoU"]
        for labels in (seeds, made)
    )
    assert before < 75 and after > 99


def test_shards_give_what_one_run_gives(world: Any, make_cfg: Any) -> None:
    cfg = make_cfg()
    labels_stage(cfg, "sepl_tiny", world.inputs, Placement(world.root / "whole"))
    for shard in (1, 2, 0):
        place = Placement(world.root / "shards", num_shards=3, shard=shard, part_size=2)
        done = labels_stage(cfg, "sepl_tiny", world.inputs, place)
        assert (done is not None) == (shard == 0)
    assert files(world.root / "shards") == files(world.root / "whole")


def test_a_killed_run_goes_on_with_the_images_that_are_missing(
    world: Any, make_cfg: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg, output = make_cfg(), world.root / "out"
    labels_stage(cfg, "sepl_tiny", world.inputs, Placement(world.root / "whole"))
    seen: list[str] = []
    call = SEPL.__call__

    def stop_at_the_sixth(self: SEPL, record: Any) -> Any:
        seen.append(record["image_id"])
        if len(seen) == 6:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(self, record)

    pid = os.fork()
    if not pid:
        monkeypatch.setattr(SEPL, "__call__", stop_at_the_sixth)
        labels_stage(cfg, "sepl_tiny", world.inputs, Placement(output))
        os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]) and not output.exists()

    def count(self: SEPL, record: Any) -> Any:
        seen.append(record["image_id"])
        return call(self, record)

    monkeypatch.setattr(SEPL, "__call__", count)
    labels_stage(cfg, "sepl_tiny", world.inputs, Placement(output))
    assert seen == [f"img{number}" for number in range(5, 10)]
    assert files(output) == files(world.root / "whole")


def test_true_labels_decide_nothing(world: Any, make_cfg: Any) -> None:
    results = []
    for name in ("before", "after"):
        labels_stage(make_cfg(), "sepl_tiny", world.inputs, Placement(world.root / name))
        results.append(files(world.root / name))
        rng = np.random.default_rng(0)
        for path in (world.root / "truth").iterdir():
            write_label_png(path, rng.integers(0, 3, SIZE, dtype=np.uint8))
    assert results[0] == results[1]


def test_a_folder_of_other_origin_is_held_to_the_tags_of_the_records(
    world: Any, make_cfg: Any
) -> None:
    foreign = world.root / "foreign"
    shutil.copytree(world.inputs["input"] / "labels", foreign)
    write_label_png(foreign / "img0.png", np.full(SIZE, 2, np.uint8))  # its only tag is 0
    built = source(make_cfg(), world, input=foreign)
    assert (built.system, built.base, built.supervision) == ("SEPL", "paper", "image_labels")
    records = weak_records("sepl_tiny")
    ours = source(make_cfg(), world)
    np.testing.assert_array_equal(built(records[1]).label, ours(records[1]).label)
    result = built(records[0])
    assert not result.label.any() and result.flags == ("untagged:2", "no_tags")
    assert source(make_cfg("SEPL.START", "crf"), world, input=foreign)  # nobody knows how it was


def test_labels_made_without_tags_keep_their_own(world: Any, make_cfg: Any) -> None:
    label = np.zeros(SIZE, np.uint8)
    label[3:10, 3:10] = 2
    tagless = world.root / "tagless"
    made = {"system": "BoxSAM", "base": "paper", "supervision": "none"}
    with SemSegLabelsWriter(tagless, space=world.space, **made) as writer:
        writer.add("img0", label, tags=[1])
    built = source(make_cfg(), world, input=tagless)
    result = built(weak_records("sepl_tiny")[0])
    assert built.supervision == "none" and result.tags == (1,) and (result.label == 2).any()


def test_an_image_that_could_not_be_read_stays_unknown(world: Any, make_cfg: Any) -> None:
    damaged, unknown = world.root / "damaged", np.full(SIZE, 255, np.uint8)
    made = {"system": "CAM", "base": "paper", "supervision": "image_labels"}
    with SemSegLabelsWriter(damaged, space=world.space, **made) as writer:
        writer.add("img0", unknown, tags=[0], flags=["damaged"])
    built = source(make_cfg("SEPL.IGNORE", "background"), world, input=damaged)
    result = built(weak_records("sepl_tiny")[0])
    assert (result.label == 255).all() and result.flags == ("damaged",)


def test_labels_that_are_not_what_start_says_are_refused(world: Any, make_cfg: Any) -> None:
    with pytest.raises(ValueError, match=r"CRF '', and SEPL.START is 'crf': set it to 'cam'"):
        source(make_cfg("SEPL.START", "crf"), world)
    write_json(world.inputs["input"] / "config.json", {"WEAKSAM.LABELS.CRF": "weaktr_voc"})
    with pytest.raises(ValueError, match=r"'weaktr_voc', and SEPL.START is 'cam'"):
        source(make_cfg(), world)
    assert source(make_cfg("SEPL.START", "crf"), world)


def test_what_is_missing_or_does_not_fit_is_named(world: Any, make_cfg: Any) -> None:
    cfg, records = make_cfg(), weak_records("sepl_tiny")
    with pytest.raises(ValueError, match="--masks is missing"):
        LABEL_SOURCE_REGISTRY.get("SEPL")(cfg, {"input": world.inputs["input"]}, world.space)
    other = world.root / "other"
    with ProposalStoreWriter(other) as writer:
        masks = encode_rle(np.ones((1, 32, 24), bool))
        writer.add("img0", [[0, 0, 3, 3]], masks=masks, image_size=(32, 24))
    turned = source(cfg, world, masks=other)
    with pytest.raises(ValueError, match=r"img0.png' with .*'img0'.*masks are 32 x 24"):
        turned(records[0])
    with pytest.raises(KeyError, match="img1"):
        turned(records[1])
    boxes = world.root / "boxes"
    with ProposalStoreWriter(boxes) as writer:
        writer.add("img0", [[0, 0, 3, 3]], image_size=SIZE)
    with pytest.raises(ArtifactError, match="boxes without masks.*SAVE_MASKS"):
        source(cfg, world, masks=boxes)
    foreign = world.root / "foreign"
    shutil.copytree(world.inputs["input"] / "labels", foreign)
    write_label_png(foreign / "img0.png", np.full(SIZE, 7, np.uint8))
    with pytest.raises(ValueError, match="img0.png.* 7"):
        source(cfg, world, input=foreign)(records[0])


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sepl_voc12.yaml", PAPER),
        ("sepl_coco14.yaml", PAPER),
        ("reference/sepl_voc12.yaml", REFERENCE),
    ],
)
def test_the_configs_hold_the_settings_of_their_names(
    name: str, settings: Any, make_cfg: Any
) -> None:
    cfg = make_cfg("SEPL.START", "crf")
    cfg.merge_from_file(get_config_file(f"projects/SEPL/configs/{name}"))
    assert build_sepl_settings(cfg) == settings
    grid = cfg.WEAKSAM.PROPOSALS.GRID
    assert (grid.QUALITY_THRESH, grid.STABILITY_THRESH, grid.NMS_THRESH) == (0.86, 0.92, 0.7)
    assert cfg.WEAKSAM.LABELS.SOURCE == "SEPL" and cfg.WEAKSAM.PROPOSALS.SAVE_MASKS
