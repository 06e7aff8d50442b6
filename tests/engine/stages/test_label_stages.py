"""Pseudo labels as a stage: parts, kills inside a part, shards, identities, and what they read."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import (
    ArtifactMismatchError,
    CamMaps,
    CamStore,
    CamStoreWriter,
    RunManifest,
    SemSegLabels,
    list_outputs,
    sha256_file,
)
from weaksam_d2.data import (
    LABEL_SOURCE_REGISTRY,
    LabelResult,
    register_tagged_folder,
    required_input,
)
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.stages.image_stages import Placement, cams_stage
from weaksam_d2.engine.stages.label_stages import labels_request, labels_stage

NAME = "label_stage_weak"
IDS = [str(i) for i in range(10)]
TAGS = [["duck"], ["swan"], ["duck", "swan"]]
SIZE = (48, 64)


@pytest.fixture()
def birds(tmp_path: Path) -> Iterator[Path]:
    """Ten tagged images, one of them in a folder of its own; their CAM store."""
    folder, rng, lines = tmp_path / "photos", np.random.default_rng(0), []
    folder.mkdir()
    for i in IDS:
        pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
        lines.append(f"{i}.png,{';'.join(TAGS[int(i) % 3])}\n")
    (tmp_path / "tags.csv").write_text("".join(lines))
    register_tagged_folder(NAME, image_root=folder, tags=tmp_path / "tags.csv")
    with CamStoreWriter(
        tmp_path / "cams", class_names=["duck", "swan"], network="CNN", scales=(1.0,)
    ) as writer:
        for i in IDS:
            classes = np.array([["duck", "swan"].index(tag) for tag in TAGS[int(i) % 3]])
            maps = rng.uniform(0, 1, (len(classes), 3, 4)).astype(np.float32)
            writer.add(i, CamMaps(SIZE, classes, (maps,)))
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


@pytest.fixture()
def cfg() -> Any:
    made = base_config()
    made.DATASETS.TRAIN = (NAME,)
    made.MODEL.DEVICE = "cpu"
    return made


def run(cfg: Any, folder: Path, output: str, **options: Any) -> RunManifest | None:
    inputs = {"input": folder / "cams"}
    return labels_stage(cfg, NAME, inputs, Placement(folder / output, **options))


def files(folder: Path) -> dict[str, str]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in found
        if path.name != "manifest.json"
    }


def test_every_image_gets_labels_of_its_tags(birds: Path, cfg: Any) -> None:
    manifest = run(cfg, birds, "labels")
    assert manifest is not None and manifest.stage == "labels" and manifest.status == "complete"
    assert manifest.counts["images"] == 10 and manifest.counts["pixels"] == 10 * 48 * 64
    labels = SemSegLabels.open(birds / "labels")
    assert labels.image_ids == IDS and labels.space.classes == ("background", "duck", "swan")
    assert (labels.system, labels.supervision) == ("CAM", "image_labels")
    for i in IDS:
        entry, label = labels.entry(i), labels[i]
        assert label.shape == SIZE and sum(entry["pixels"].values()) == label.size
        allowed = {0, 255, *(tag + 1 for tag in entry["tags"])}
        assert set(np.unique(label).tolist()) <= allowed
    outputs = RunManifest.read(birds / "labels").outputs
    listed = [row for row in list_outputs(birds / "labels") if row["name"] != "config.json"]
    assert outputs == listed
    assert sorted(os.listdir(birds)) == ["cams", "labels", "photos", "tags.csv"]


def test_bytes_depend_neither_on_shards_nor_on_parts(birds: Path, cfg: Any) -> None:
    run(cfg, birds, "one")
    run(cfg, birds, "parts", part_size=3)
    for shard in (1, 0, 2):
        run(cfg, birds, "shards", part_size=2, num_shards=3, shard=shard)
    assert files(birds / "one") == files(birds / "parts") == files(birds / "shards")
    assert len(files(birds / "one")) == 12


class Slow:
    """Labels an image from its name, and dies or fails where it is told to."""

    declared_keys = ("MODEL.TIMM",)
    neutral_keys = ("MODEL.TIMM.FREEZE_AT",)
    system, base, supervision = "SLOW", "custom", "image_labels"
    fail_at = ""
    kill_at = ""
    made: list[str] = []

    def __init__(self, cfg: Any, inputs: Mapping[str, Path], space: Any) -> None:
        required_input(inputs, "input", "something")
        self.made = type(self).made

    @staticmethod
    def weight_files(cfg: Any) -> list[tuple[str, Path]]:
        return [("network", Path(cfg.MODEL.WEIGHTS))]

    def __call__(self, record: Mapping[str, Any]) -> LabelResult:
        image_id = str(record["image_id"])
        if image_id == self.kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if image_id == self.fail_at:
            raise RuntimeError("out of memory")
        self.made.append(image_id)
        label = np.full(SIZE, int(record["image_labels"][0]) + 1, np.uint8)
        return LabelResult(label, (f"lost:{image_id}",))


@pytest.fixture()
def slow(birds: Path, cfg: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Slow]]:
    monkeypatch.setitem(LABEL_SOURCE_REGISTRY._obj_map, "Slow", Slow)
    cfg.WEAKSAM.LABELS.SOURCE = "Slow"
    cfg.MODEL.WEIGHTS = str(birds / "network.pth")
    (birds / "network.pth").write_bytes(b"weights")
    Slow.made.clear()
    yield Slow
    Slow.fail_at = Slow.kill_at = ""


def in_child(work: Callable[[], Any]) -> int:
    """Run in a forked process; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            torch.set_num_threads(1)
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitpid(pid, 0)[1]


def test_a_kill_inside_a_part_loses_one_image(birds: Path, cfg: Any, slow: type[Slow]) -> None:
    run(cfg, birds, "whole")
    assert slow.made == IDS
    slow.made.clear()
    for kill_at in ("2", "7"):
        slow.kill_at = kill_at
        status = in_child(lambda: run(cfg, birds, "out", part_size=4))
        assert os.WIFSIGNALED(status) and not (birds / "out").exists()
    # Parts that someone has begun come last, so each kill falls into another part.
    kept = {p.name: p.stat().st_mtime_ns for p in birds.rglob("out.parts/**/labels/*.png")}
    assert sorted(kept) == ["0.png", "1.png", "4.png", "5.png", "6.png"]
    slow.kill_at, slow.fail_at = "", "9"
    with pytest.raises(RuntimeError, match="out of memory"):
        run(cfg, birds, "out")
    slow.fail_at = ""
    manifest = run(cfg, birds, "out")
    assert slow.made == ["8", "2", "3", "7", "9"], "images that were done are not done again"
    found = {p.name: p.stat().st_mtime_ns for p in birds.glob("out/labels/*.png")}
    assert len(found) == 10 and kept.items() <= found.items()
    assert manifest is not None and manifest.counts == RunManifest.read(birds / "whole").counts
    assert files(birds / "out") == files(birds / "whole")
    assert not (birds / "out.parts").exists()


def test_what_decides_the_labels_decides_their_identity(
    birds: Path, cfg: Any, slow: type[Slow]
) -> None:
    def identity(change: Callable[[Any], Any] = lambda c: None) -> str:
        made = cfg.clone()
        change(made)
        inputs, place = {"input": birds / "cams"}, Placement(birds / "out")
        return labels_request(made, NAME, inputs, place).manifest("complete").identity()

    def set_to(*pairs: Any) -> Callable[[Any], Any]:
        return lambda made: made.merge_from_list(list(pairs))

    first = identity()
    assert identity(set_to("MODEL.DEVICE", "cuda")) == first
    assert identity(set_to("MODEL.TIMM.FREEZE_AT", 5)) == first  # neutral: the source says so
    assert identity(set_to("MODEL.TIMM.FPN_CHANNELS", 8)) != first
    assert identity(set_to("WEAKSAM.LABELS.BACKGROUND", "power:1")) != first
    (birds / "copy.pth").write_bytes(b"weights")
    assert identity(set_to("MODEL.WEIGHTS", str(birds / "copy.pth"))) == first
    (birds / "copy.pth").write_bytes(b"others")
    assert identity(set_to("MODEL.WEIGHTS", str(birds / "copy.pth"))) != first
    with pytest.raises(KeyError, match="None"):
        identity(set_to("WEAKSAM.LABELS.SOURCE", "None"))


def test_other_settings_stop_with_both_hashes(birds: Path, cfg: Any) -> None:
    run(cfg, birds, "labels")
    before = (birds / "labels/manifest.json").stat().st_mtime_ns
    run(cfg, birds, "labels")
    assert (birds / "labels/manifest.json").stat().st_mtime_ns == before  # skipped
    cfg.WEAKSAM.LABELS.BACKGROUND = "power:1"
    with pytest.raises(ArtifactMismatchError, match="BACKGROUND was 'constant:0.43' and is 'power"):
        run(cfg, birds, "labels")
    run(cfg, birds, "labels", overwrite=True)


def test_a_store_says_how_its_network_wants_its_maps_normalized(birds: Path, cfg: Any) -> None:
    from detectron2.modeling import build_model

    from weaksam_d2.cams import CNN

    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "test_efficientnet", (2, 3)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.WEAKSAM.CAMS.SCALES = (1.0,)
    torch.save({"model": build_model(cfg).state_dict()}, birds / "model.pth")
    found = {}
    for normalize in ("minmax", "max"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(CNN, "normalize", normalize)
            cams_stage(cfg, NAME, birds / "model.pth", Placement(birds / normalize))
        found[normalize] = CamStore.open(birds / normalize).index["normalize"]
    assert found == {"minmax": "minmax", "max": "max"}
