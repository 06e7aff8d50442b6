"""Segmenters trained on rendered scenes by the engine: losses, figures, views, resuming."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from weaksam_d2.artifacts import LabelSpace, SemSegLabelsWriter
from weaksam_d2.data import build_test_loader, register_scenes
from weaksam_d2.data.datasets.scenes import SceneSet
from weaksam_d2.engine import cli
from weaksam_d2.engine.training.class_count import check_class_count
from weaksam_d2.engine.training.inference_views import with_test_views
from weaksam_d2.engine.training.trainer import WeakSAMTrainer, flat_results
from weaksam_d2.evaluation import truth_reader
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.projects import add_all_configs
from weaksam_d2.segmentation import SemSegWithTTA

SIZE = 64  # pixels, of an image's short side
TRAIN, VAL = "segment_scenes_train_weak", "segment_scenes_val_weak"
SCENES = SceneSet("segment", train=4, val=2, scale=(0.4, 0.7))


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Label images of ``TRAIN`` that are true here, except for three rows without label."""
    known, root = set(DatasetCatalog.list()), tmp_path_factory.mktemp("segment")
    for name in (TRAIN, VAL):
        split = name.split("_")[2]
        register_scenes(name.removesuffix("_weak"), root=root, split=split, scenes=SCENES)
    yield write_labels(root / "labels")
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)


def write_labels(path: Path) -> Path:
    truth = truth_reader(TRAIN)
    space = LabelSpace.from_metadata(TRAIN, MetadataCatalog.get(TRAIN))
    made = {"system": "CAM", "base": "custom", "supervision": "image_labels"}
    with SemSegLabelsWriter(path, space=space, **made) as writer:
        for image_id in truth.image_ids:
            label = truth(image_id).copy()
            label[:3] = 255
            writer.add(image_id, label)
    return path


def config(labels: Path, output: Path, name: str = "deeplab_lite0", **changes: Any) -> Any:
    cfg = cli.base_config(add_all_configs)
    cfg.merge_from_file(get_config_file(f"quick_schedules/{name}.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.WEIGHTS = "cpu", "test_efficientnet", ""
    cfg.MODEL.TIMM.FREEZE_AT = 0
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 7
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (TRAIN,), (VAL,)
    cfg.DATASETS.PSEUDO_LABELS_TRAIN = (str(labels),)
    cfg.OUTPUT_DIR = str(output)
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    output.mkdir(exist_ok=True)
    return cfg


def trained(cfg: Any, resume: bool = False) -> WeakSAMTrainer:
    seed_all_rng(cfg.SEED)
    trainer = WeakSAMTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def test_a_segmenter_learns_from_label_images_and_is_evaluated(
    labels: Path, tmp_path: Path
) -> None:
    cfg = config(labels, tmp_path / "out", SOLVER__MAX_ITER=25, SOLVER__BASE_LR=0.003)
    trainer = trained(cfg)
    losses = [value for value, _ in trainer.storage.history("total_loss").values()]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5]), losses
    rates = [value for value, _ in trainer.storage.history("lr").values()]
    assert all(a > b for a, b in zip(rates, rates[1:], strict=False))  # polynomial decay
    figures = flat_results(trainer.evaluate())
    assert 0 < figures[f"{VAL}/sem_seg/mIoU"] <= 100
    assert f"{VAL}/sem_seg/IoU-background" in figures
    # A class index one off would still learn, but not find the background.
    assert figures[f"{VAL}/sem_seg/IoU-background"] > 40


def test_views_change_probabilities_and_are_evaluated_like_the_model(
    labels: Path, tmp_path: Path
) -> None:
    cfg = config(labels, tmp_path / "out", TEST__SEM_SEG_SCALES=(1.0, 1.5), TEST__SEM_SEG_FLIP=True)
    trainer = trained(cfg)
    model = trainer.model.eval()
    (sample,) = next(iter(build_test_loader(cfg, VAL)))
    views = with_test_views(cfg, model)
    assert isinstance(views, SemSegWithTTA)
    with torch.no_grad():
        plain, averaged = model([sample])[0]["sem_seg"], views([sample])[0]["sem_seg"]
    assert averaged.shape == plain.shape == (7, sample["height"], sample["width"])
    torch.testing.assert_close(averaged.sum(dim=0), torch.ones_like(averaged[0]))
    assert not torch.allclose(averaged, plain.softmax(dim=0), atol=1e-4)
    assert f"{VAL}/sem_seg/mIoU" in flat_results(trainer.evaluate())


def test_a_resumed_run_equals_an_uninterrupted_one(labels: Path, tmp_path: Path) -> None:
    changes = {"SOLVER__EXACT_RESUME": True, "SOLVER__CHECKPOINT_PERIOD": 2}
    whole = trained(config(labels, tmp_path / "whole", **changes))
    half = config(labels, tmp_path / "half", **changes)
    (tmp_path / "half" / "last_checkpoint").write_text("model_0000001.pth")
    stored = tmp_path / "whole" / "model_0000001.pth"
    (tmp_path / "half" / "model_0000001.pth").write_bytes(stored.read_bytes())
    again = trained(half, resume=True)
    assert again.start_iter == 2
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name


def test_a_batch_without_labels_is_a_step_of_loss_zero(labels: Path, tmp_path: Path) -> None:
    trainer = WeakSAMTrainer(config(labels, tmp_path / "out"))
    batch = next(iter(trainer.data_loader))
    for sample in batch:
        sample["sem_seg"].fill_(255)
    trainer._batches = iter([batch])
    before = [p.detach().clone() for p in trainer.model.parameters()]
    with EventStorage(0) as trainer.storage:
        trainer.iter = 0
        trainer.run_step()  # would raise on NaN
        assert trainer.storage.latest()["total_loss"][0] == 0
    after = list(trainer.model.parameters())
    assert all(bool(p.isfinite().all()) for p in after)
    assert len(before) == len(after)


def test_mask2former_learns_from_the_same_labels(labels: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    project = "projects/Mask2Former/configs/quick_schedules/mask2former_semseg_lite0"
    cfg = cli.base_config(add_all_configs)
    cfg.merge_from_file(get_config_file(f"{project}.yaml"))
    quick = config(labels, tmp_path / "out")
    cfg.DATASETS, cfg.OUTPUT_DIR, cfg.MODEL.TIMM.NAME = (
        quick.DATASETS,
        quick.OUTPUT_DIR,
        ("test_efficientnet"),
    )
    cfg.MODEL.DEVICE, cfg.MODEL.TIMM.WEIGHTS, cfg.MODEL.TIMM.FREEZE_AT = "cpu", "", 0
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES, cfg.SOLVER.MAX_ITER = 7, 1
    cfg.INPUT.CROP.SIZE, cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = [64, 64], (64,), 64
    cfg.MODEL.MASK2FORMER.ENCODER_LAYERS = cfg.MODEL.MASK2FORMER.DECODER_LAYERS = 1
    cfg.MODEL.MASK2FORMER.NUM_POINTS, cfg.TEST.SEM_SEG_FLIP = 100, True
    trainer = trained(cfg)
    assert trainer.model.sem_seg_output == "scores"
    assert f"{VAL}/sem_seg/mIoU" in flat_results(trainer.evaluate())


def test_the_number_of_labels_counts_background(labels: Path, tmp_path: Path) -> None:
    cfg = config(labels, tmp_path / "out")
    check_class_count(cfg)
    cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES = 6
    with pytest.raises(ValueError, match=r"SEM_SEG_HEAD\.NUM_CLASSES is 6, .*set .* 7 .*backgr"):
        WeakSAMTrainer(cfg)
