"""The second optimizer step of Concrete DropBlock, alone and in the trainer."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.env import seed_all_rng
from PIL import Image

from weaksam_d2.artifacts import ProposalStoreWriter
from weaksam_d2.data import register_tagged_folder
from weaksam_d2.engine import cli
from weaksam_d2.engine.training.adversarial_step import AdversarialStep, only_trainable
from weaksam_d2.engine.training.trainer import WeakSAMTrainer

SIZE = (48, 64)


def write_birds(root: Path) -> None:
    """Four images, one of them without a tag, and ten proposals for each."""
    rng = np.random.default_rng(0)
    (root / "photos").mkdir(parents=True)
    with ProposalStoreWriter(root / "store") as writer:
        for name in "abcd":
            pixels = rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / "photos" / f"{name}.png")
            low = rng.uniform(0, 24, (10, 2))
            boxes = np.concatenate([low, low + rng.uniform(22, 24, (10, 2))], axis=1)
            writer.add(name, boxes.astype(np.float32), image_size=SIZE)
    (root / "tags.csv").write_text("a.png,duck\nb.png,swan\nc.png,duck;swan\nd.png,\n")


def config(root: Path, output: str, **keys: Any) -> Any:
    if "birds" not in DatasetCatalog:
        register_tagged_folder("birds", image_root=root / "photos", tags=root / "tags.csv")
    cfg = cli.base_config()
    cfg.MODEL.DEVICE, cfg.MODEL.META_ARCHITECTURE = "cpu", "WSODRCNN"
    cfg.MODEL.LOAD_PROPOSALS = True
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.BACKBONE.NAME = "build_timm_concat_backbone"
    cfg.MODEL.TIMM.NAME, cfg.MODEL.TIMM.OUT_INDICES = "test_efficientnet", (3, 4)
    cfg.MODEL.ROI_HEADS.NAME, cfg.MODEL.ROI_HEADS.IN_FEATURES = "WSODROIHeads", ["concat"]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    cfg.MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION = 3
    node = cfg.MODEL.WSOD
    node.FC_DIM, node.NUM_FC, node.SEED_MINER, node.REGRESSION = 8, 1, "MIST", "class_specific"
    node.DROPBLOCK.METHOD, node.DROPBLOCK.BASE_LR = "concrete", 0.01
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = ("birds",), ()
    cfg.DATASETS.PROPOSAL_FILES_TRAIN = (str(root / "store"),)
    cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN = 1000
    cfg.INPUT.MAPPER_NAME, cfg.INPUT.MIN_SIZE_TRAIN = "WeakDatasetMapper", (64,)
    cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = 0, 2
    cfg.SOLVER.BASE_LR, cfg.SOLVER.MAX_ITER, cfg.SOLVER.WARMUP_ITERS = 0.01, 2, 0
    cfg.SOLVER.STEPS, cfg.SOLVER.CHECKPOINT_PERIOD, cfg.SEED = (1,), 2, 3
    cfg.OUTPUT_DIR = str(root / output)
    cfg.merge_from_list([part for pair in keys.items() for part in pair])
    (root / output).mkdir(exist_ok=True)
    return cfg


def trained(cfg: Any, resume: bool = False) -> WeakSAMTrainer:
    seed_all_rng(3)
    trainer = WeakSAMTrainer(cfg)
    trainer.resume_or_load(resume)
    trainer.train()
    return trainer


def generator_state(trainer: Any) -> dict[str, torch.Tensor]:
    model = getattr(trainer.model, "module", trainer.model)
    return {k: v.clone() for k, v in model.roi_heads.drop_block.named_parameters()}


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> Any:
    root = tmp_path_factory.mktemp("birds")
    write_birds(root)
    yield root
    DatasetCatalog.remove("birds")
    MetadataCatalog.remove("birds")


@pytest.mark.parametrize("reuse", [False, True])
def test_both_steps_move_only_what_is_theirs(birds: Path, reuse: bool) -> None:
    """The generator's Adam and the detector's SGD hold disjoint parameters, and all move."""
    cfg = config(birds, f"reuse{reuse}", **{
        "MODEL.WSOD.DROPBLOCK.REUSE_FEATURES": reuse, "SOLVER.ACCUMULATION_STEPS": 2,
    })  # fmt: skip
    seed_all_rng(3)
    trainer = WeakSAMTrainer(cfg)
    assert trainer.adversarial is not None
    before = {k: v.clone() for k, v in trainer.model.named_parameters()}
    required = {k for k, p in trainer.model.named_parameters() if p.requires_grad}
    held = [
        {id(p) for group in o.param_groups for p in group["params"]}
        for o in (trainer.optimizer, trainer.adversarial.optimizer)
    ]
    assert held[0] and held[1] and not held[0] & held[1]
    trainer.train()
    after = dict(trainer.model.named_parameters())
    moved = {k for k in before if not torch.equal(before[k], after[k])}
    ours = {k for k in before if ".drop_block." in k}
    assert ours and ours.isdisjoint(required)
    assert {k for k in ours if "shortcut" in k} <= moved
    assert moved - ours >= {k for k in required if "box_head" in k}
    assert {k for k, p in trainer.model.named_parameters() if p.requires_grad} == required
    (group,) = trainer.adversarial.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.03)  # GAMMA 3 at iteration 1
    assert group["weight_decay"] == pytest.approx(5e-4)


@pytest.mark.parametrize("steps, milestones", [((), [1]), ((5, 7), [5, 7])])
def test_the_generator_may_have_a_schedule_of_its_own(
    birds: Path, steps: tuple[int, ...], milestones: list[int]
) -> None:
    cfg = config(birds, "steps", **{"MODEL.WSOD.DROPBLOCK.STEPS": steps})
    step = WeakSAMTrainer(cfg).adversarial
    assert step is not None and list(step.scheduler.milestones.elements()) == milestones


def test_a_resumed_generator_goes_on_where_it_was(birds: Path) -> None:
    cfg = config(birds, "resume")
    first = trained(cfg)
    assert first.adversarial is not None
    state = first.adversarial.state_dict()
    cfg.SOLVER.MAX_ITER = 3
    second = WeakSAMTrainer(cfg)
    second.resume_or_load(True)
    assert second.adversarial is not None
    found = second.adversarial.state_dict()
    assert found["scheduler"] == state["scheduler"]
    for mine, theirs in zip(
        found["optimizer"]["state"].values(), state["optimizer"]["state"].values(), strict=True
    ):
        assert mine["step"] == theirs["step"] == 2
        torch.testing.assert_close(mine["exp_avg"], theirs["exp_avg"])
    second.train()


def test_bfloat16_trains_both(birds: Path) -> None:
    keys = {"SOLVER.AMP.ENABLED": True, "SOLVER.AMP.DTYPE": "bfloat16"}
    trainer = trained(config(birds, "amp", **keys))
    assert all(p.isfinite().all() for p in generator_state(trainer).values())


class _Toy(torch.nn.Module):
    """A detector whose loss is what its generator says."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.nn.Linear(1, 1).requires_grad_(False)
        self.detector = torch.nn.Linear(1, 1)

    def forward(self, batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        x = torch.stack([sample["x"] for sample in batch])
        return {"loss": self.detector(x).sum() * self.generator(x).sum()}


def test_the_generator_climbs_the_loss_by_its_share() -> None:
    torch.manual_seed(0)
    toy = _Toy()
    step = AdversarialStep(toy, toy.generator, base_lr=0.1, weight_decay=0.0, loss_weight=0.01)
    batch = [{"x": torch.ones(1)}]
    before, detector = toy(batch)["loss"].item(), toy.detector.weight.clone()
    step.step([batch], lambda: torch.autocast("cpu", enabled=False))
    assert toy.generator.weight.grad is not None
    expected = -0.01 * toy.detector(torch.ones(1, 1)).item()
    assert toy.generator.weight.grad.item() == pytest.approx(expected)
    assert toy(batch)["loss"].item() > before
    assert torch.equal(toy.detector.weight, detector) and toy.detector.weight.grad is None


def test_a_second_loss_that_is_not_finite_stops() -> None:
    toy = _Toy()
    step = AdversarialStep(toy, toy.generator)
    with pytest.raises(FloatingPointError, match="second pass"):
        step.step(
            [[{"x": torch.tensor([torch.inf])}]], lambda: torch.autocast("cpu", enabled=False)
        )
    assert toy.detector.weight.requires_grad and not toy.generator.weight.requires_grad


def test_only_the_part_requires_a_gradient_and_all_is_as_before() -> None:
    toy = _Toy()
    with only_trainable(toy, toy.generator):
        assert [p.requires_grad for p in toy.parameters()] == [True, True, False, False]
    assert [p.requires_grad for p in toy.parameters()] == [False, False, True, True]


HEADS: dict[str, dict[str, Any]] = {
    "mist": {"SOLVER.ACCUMULATION_STEPS": 2},
    "pcl": {
        "MODEL.WSOD.DROPBLOCK.METHOD": "",
        "MODEL.WSOD.REGRESSION": "none",
        "MODEL.WSOD.REFINEMENT_LOSS": "PCL",
    },
}


def test_two_ranks_stay_equal_with_an_untagged_image_and_drop_block(birds: Path) -> None:
    """One image for each rank and step; one of the four has no tag, and no rank waits for it."""
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run"),
            *("--standalone", "--nproc_per_node", "2", __file__, str(birds)),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    for head in HEADS:
        ranks = [json.loads((birds / f"{head}{r}.json").read_text()) for r in (0, 1)]
        assert ranks[0] == ranks[1]
        assert ranks[0]["wrapped"] == "DistributedDataParallel"
        moved = set(ranks[0]["moved"])
        assert {f"roi_heads.mil.{name}.weight" for name in ("classification", "detection")} <= moved
        assert any(".drop_block." in name for name in moved) == (head == "mist")


def _train_rank(args: argparse.Namespace) -> None:
    from detectron2.utils import comm

    torch.set_num_threads(1)
    for head, keys in HEADS.items():
        seed_all_rng(3 + comm.get_rank())
        trainer = WeakSAMTrainer(config(args.folder, f"ddp_{head}", **keys))
        model = trainer.model.module
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        trainer.train()
        after = {name: p.detach() for name, p in model.named_parameters()}
        found = {
            "wrapped": type(trainer.model).__name__,
            "moved": [name for name in after if not torch.equal(after[name], before[name])],
            "sums": {name: p.double().sum().item() for name, p in after.items()},
        }
        (args.folder / f"{head}{comm.get_rank()}.json").write_text(json.dumps(found))


if __name__ == "__main__":  # a rank of the test above
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    cli.run_distributed(_train_rank, parser.parse_args())
