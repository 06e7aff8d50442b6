"""The losses of two processes: who divides by what, and who is ranked with whom."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from weaksam_d2.projects.dino.criterion import DINOCriterion, LossWeights
from weaksam_d2.projects.dino.denoising import make_denoising
from weaksam_d2.projects.dino.matcher import CostWeights
from weaksam_d2.projects.dino.outputs import DINOOutput, ImageTargets, LayerPrediction

from weaksam_d2.retrain import QueryDrop, QueryDropSettings

OPTIONS: tuple[dict[str, Any], ...] = (
    {"enabled": False},
    {"percentile": 90},
    {"percentile": 90, "norm": "kept", "denoising": True},
)
PARTS = {0: slice(0, 2), 1: slice(2, 3)}  # images of each rank


def losses_of(images: slice, **options: Any) -> dict[str, float]:
    """Losses of a part of a batch of three images with 12, 10 and no objects."""
    random = torch.Generator().manual_seed(1)
    targets, predictions = [], []
    for count in (12, 10, 0):
        classes = torch.randint(3, (count,), generator=random)
        targets.append(ImageTargets(classes, torch.rand(count, 4, generator=random) * 0.4 + 0.2))
    for _ in range(3):
        logits = 2 * torch.randn(3, 15, 3, generator=random)
        boxes = torch.rand(3, 15, 4, generator=random) * 0.5 + 0.1
        predictions.append(LayerPrediction(logits[images], boxes[images]))
    groups = {"label_noise": 0.5, "box_noise": 1.0, "number": 24, "num_classes": 3}
    denoising = make_denoising(targets[images], **groups)
    noised = []
    for _ in range(2):
        logits = 2 * torch.randn(3, 48, 3, generator=random)
        boxes = torch.rand(3, 48, 4, generator=random) * 0.5 + 0.1
        noised.append(LayerPrediction(logits[images], boxes[images]))
    output = DINOOutput(predictions[:2], predictions[2], noised if denoising else [])
    criterion = DINOCriterion(
        num_classes=3,
        weights=LossWeights(),
        cost=CostWeights(),
        drop=QueryDrop(QueryDropSettings(**options)),
        denoises=True,
    )
    losses = criterion(output, targets[images], denoising)
    return {name: loss.item() for name, loss in losses.items()}


RANK = """
import json, runpy, sys
import torch.distributed as dist
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
made = runpy.run_path(sys.argv[3])
found = [made["losses_of"](made["PARTS"][rank], **options) for options in made["OPTIONS"]]
print(json.dumps(found))
"""


def test_two_ranks_lose_as_much_as_one_with_all_images(tmp_path: Path) -> None:
    """Each divides by the mean number of objects, 11, and gradients are averaged."""
    command = [sys.executable, "-W", "ignore", "-c", RANK]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "meet"), __file__], stdout=subprocess.PIPE
        )
        for rank in PARTS
    ]
    first, second = (json.loads(one.communicate(timeout=300)[0]) for one in started)
    for options, *ranks in zip(OPTIONS, first, second, strict=True):
        whole = losses_of(slice(0, 3), **options)
        for name, loss in whole.items():
            mean = (ranks[0][name] + ranks[1][name]) / 2
            assert mean == pytest.approx(loss, rel=1e-5), (options, name)
        assert ranks[1]["loss_l1"] == ranks[1]["loss_cls_dn"] == 0.0 < ranks[1]["loss_cls"]
        assert list(ranks[0]) == list(ranks[1]), "the trainer averages the losses of all ranks"
    assert second[0] == second[1] and first[0] != first[1] != first[2]
