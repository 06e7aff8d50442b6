"""The mean teacher: averages, targets, checkpoints, exact resuming, its row of figures."""

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage

from weaksam_d2.engine import cli
from weaksam_d2.engine.pipeline.layout import Layout
from weaksam_d2.engine.stages.training_stage import read_results
from weaksam_d2.engine.training.ema_teacher import EMATeacher, load_with_teacher
from weaksam_d2.engine.training.trainer import WeakSAMTrainer

CONFIGS = Path(__file__).resolve().parents[3] / "configs"


@pytest.fixture
def cfg(tiny_pipeline: Any, tmp_path: Path) -> Any:
    """Retraining on the labels of the tiny pipeline, with a teacher and exact resuming."""
    cfg = cli.base_config()
    cfg.merge_from_file(str(CONFIGS / "quick_schedules/faster_rcnn_lite0_roi_drop.yaml"))
    cfg.MODEL.DEVICE, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.MODEL.TIMM.WEIGHTS = "cpu", 2, ""
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "test_efficientnet", (2, 3)
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM, cfg.INPUT.MIN_SIZE_TRAIN = 16, (64, 80)
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("tp_train_weak",), ()
    labels = Layout(tiny_pipeline.root).pseudo_gt("adaptive") / "pseudo_gt.json"
    cfg.DATASETS.PSEUDO_GT_TRAIN = (str(labels),)
    cfg.SOLVER.MAX_ITER, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SOLVER.STEPS = 4, 2, ()
    cfg.SOLVER.EXACT_RESUME, cfg.SOLVER.BASE_LR = True, 0.01
    node = cfg.WEAKSAM.EMA_TEACHER
    node.DECAY, node.LOSS_WEIGHT, node.SCORE_THRESH = 0.9, 0.5, 0.0
    cfg.OUTPUT_DIR = str(tmp_path)
    yield cfg
    for name in [n for n in DatasetCatalog.list() if n.startswith("tp_train_weak_pseudo_gt")]:
        DatasetCatalog.remove(name)


class Recorder(WeakSAMTrainer):
    """Notes losses and the number of targets; dies in the middle of iteration ``dies_at``."""

    dies_at = -1

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        self.seen: dict[int, list[float]] = {}

    def _losses(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        if self.iter == self.dies_at:
            raise KeyboardInterrupt
        losses = super()._losses(batch)
        targets = float(sum(len(sample["instances"]) for sample in batch))
        self.seen[self.iter] = [targets, *(loss.item() for loss in losses.values())]
        return losses


def train(cfg: Any, output: Path, *, resume: bool = False, dies_at: int = -1) -> Recorder:
    cfg = cfg.clone()
    cfg.OUTPUT_DIR = str(output)
    output.mkdir(exist_ok=True)
    seed_all_rng(99 if resume else 3)
    trainer = Recorder(cfg)
    trainer.dies_at = dies_at
    trainer.resume_or_load(resume)
    with contextlib.suppress(KeyboardInterrupt):
        trainer.train()
    return trainer


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    states = one.state_dict(), other.state_dict()
    return all(torch.equal(states[0][key], states[1][key]) for key in states[0])


def test_a_resumed_run_has_the_teacher_of_an_uninterrupted_one(cfg: Any, tmp_path: Path) -> None:
    straight = train(cfg, tmp_path / "straight")
    train(cfg, tmp_path / "killed", dies_at=3)
    resumed = train(cfg, tmp_path / "killed", resume=True)
    assert resumed.start_iter == 2
    assert resumed.seen == {n: straight.seen[n] for n in (2, 3)}
    assert straight.teacher is not None and resumed.teacher is not None
    assert same(straight.teacher.model, resumed.teacher.model)
    assert same(straight.model, resumed.model)
    assert not same(straight.teacher.model, straight.model)
    assert straight.seen[0][0] > 2, "the teacher gave no target"
    saved = torch.load(tmp_path / "straight/model_final.pth", weights_only=True)
    key = "roi_heads.box_predictor.cls_score.weight"
    assert saved["ema"].keys() == saved["model"].keys()
    assert torch.equal(saved["ema"][key], straight.teacher.model.state_dict()[key])
    model = build_model(cfg)
    loaded = load_with_teacher(cfg, model, tmp_path / "straight/model_final.pth")
    assert loaded is not None and same(loaded, straight.teacher.model)
    assert same(model, straight.model)


def test_the_teacher_is_the_slow_reference(cfg: Any, tmp_path: Path) -> None:
    """theta' after each step by hand: alpha = min(.9, (t + 1) / (t + 10)), copies before START."""
    cfg.WEAKSAM.EMA_TEACHER.START, cfg.WEAKSAM.EMA_TEACHER.LOSS_WEIGHT = 1, 0.0
    key = "roi_heads.box_predictor.cls_score.weight"
    weights: list[torch.Tensor] = []

    class Watcher(Recorder):
        def after_step(self) -> None:
            weights.append(self.model.state_dict()[key].clone())
            super().after_step()

    trainer = Watcher(cfg)
    trainer.resume_or_load(False)
    trainer.train()
    expected = weights[0]
    for step, alpha in enumerate((1 / 10, 2 / 11, 3 / 12), start=1):
        expected = alpha * expected + (1 - alpha) * weights[step]
    assert trainer.teacher is not None
    assert torch.allclose(trainer.teacher.model.state_dict()[key], expected, atol=1e-7)


def test_a_teacher_that_is_only_evaluated_changes_no_bit_of_the_training(
    cfg: Any, tmp_path: Path
) -> None:
    found = []
    for decay in (0.0, 0.9):
        cfg.WEAKSAM.EMA_TEACHER.DECAY, cfg.WEAKSAM.EMA_TEACHER.LOSS_WEIGHT = decay, 0.0
        cfg.SOLVER.MAX_ITER = 2
        found.append(train(cfg, tmp_path / str(decay)))
    assert found[0].seen == found[1].seen and same(found[0].model, found[1].model)
    assert found[0].teacher is None
    cfg.SOLVER.MAX_ITER = 4
    with pytest.raises(ValueError, match="written without a teacher"):
        train(cfg, tmp_path / "0.0", resume=True)


def test_targets_join_with_their_weight_and_tags_filter_them(cfg: Any) -> None:
    model = build_model(cfg)
    teacher = EMATeacher.from_config(cfg, model)
    assert teacher is not None
    teacher._tags = {"x": torch.tensor([1])}
    found = Instances((64, 80))
    found.pred_boxes = Boxes(torch.tensor([[0.0, 0, 20, 20], [30, 30, 60, 60], [0, 0, 9, 9]]))
    found.scores, found.pred_classes = torch.tensor([0.9, 0.8, 0.7]), torch.tensor([1, 1, 0])
    teacher.model.inference = lambda images, do_postprocess: [found]
    given = Instances((64, 80))
    given.gt_boxes, given.gt_classes = Boxes(torch.tensor([[0.0, 0, 20, 19]])), torch.tensor([1])
    sample = {"image": torch.zeros(3, 64, 80), "image_id": "x", "instances": given}
    with EventStorage(0) as storage:
        (joined,) = teacher.add_targets([sample], 0, contextlib.nullcontext)
        assert storage.latest()["ema_teacher/targets_per_image"][0] == 1.0
    targets = joined["instances"]
    assert targets.gt_boxes.tensor.tolist() == [[0, 0, 20, 19], [30, 30, 60, 60]]
    assert targets.gt_classes.tolist() == [1, 1]
    assert targets.gt_score_norm.tolist() == [1.0, 0.5]
    assert len(given) == 1 and not given.has("gt_score_norm")
    assert model.roi_heads.box_predictor.drop.score_weight == "score_norm"


def test_scores_of_the_labels_still_weigh_where_that_was_asked_for(cfg: Any) -> None:
    cfg.MODEL.ROI_DROP.SCORE_WEIGHT, cfg.WEAKSAM.EMA_TEACHER.START = "score_norm", 5
    teacher = EMATeacher.from_config(cfg, build_model(cfg))
    given = Instances((64, 80), gt_boxes=Boxes(torch.zeros(1, 4)), gt_classes=torch.tensor([0]))
    given.gt_score_norm = torch.tensor([0.25])
    sample = {"image": torch.zeros(3, 64, 80), "image_id": "x", "instances": given}
    with EventStorage(0):
        (joined,) = teacher.add_targets([sample], 0, contextlib.nullcontext)
    assert joined["instances"].gt_score_norm.tolist() == [0.25]


def test_settings_that_cannot_work_are_refused(cfg: Any) -> None:
    model = build_model(cfg)
    node = cfg.WEAKSAM.EMA_TEACHER
    for key, value in (("DECAY", 1.0), ("LOSS_WEIGHT", 1.5)):
        wrong = cfg.clone()
        wrong.WEAKSAM.EMA_TEACHER[key] = value
        with pytest.raises(ValueError, match=f"{key} is {value}"):
            EMATeacher.from_config(wrong, model)
    cfg.MODEL.ROI_HEADS.NAME = "StandardROIHeads"
    with pytest.raises(ValueError, match="use a RoIDrop head"):
        EMATeacher.from_config(cfg, build_model(cfg))
    cfg.MODEL.MASK_ON = True
    with pytest.raises(ValueError, match="targets are boxes only"):
        EMATeacher.from_config(cfg, model)
    cfg.MODEL.MASK_ON, cfg.DATASETS.TRAIN = False, ("tp_train_eval",)
    with pytest.raises(ValueError, match="image_labels"):
        EMATeacher.from_config(cfg, model)
    node.DECAY = 0.0
    assert EMATeacher.from_config(cfg, model) is None


def test_the_pipeline_evaluates_the_teacher_in_a_row_of_its_own(tiny_pipeline: Any) -> None:
    folder = Layout(tiny_pipeline.root).retrain
    results = read_results(folder, "tp_test_weak")
    assert {"bbox/AP50", "tp_test_weak (EMA teacher)/bbox/AP50"} <= set(results)
    assert (folder / "inference_ema/tp_test_weak/detections.json").exists()
    assert {"AP50", "AP50_ema"} <= set(tiny_pipeline.metrics["retrain"])
    assert not (Layout(tiny_pipeline.root).wsod / "inference_ema").exists()
