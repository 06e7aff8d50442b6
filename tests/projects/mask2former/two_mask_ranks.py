"""Started by test_mask2former_distributed.py: the criterion on two ranks.

One process forks both of them, before it computes anything: importing costs more than the test.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from detectron2.utils import comm
from weaksam_d2.projects.mask2former import (
    LayerPrediction,
    MaskCriterion,
    MaskMatcher,
    MaskTargets,
)

from weaksam_d2.retrain import QueryDrop, QueryDropSettings


def losses(rank: int, objects: int, settings: QueryDropSettings) -> dict[str, float]:
    """Of a rank with one image; the ranks have other predictions."""
    generator = torch.Generator().manual_seed(rank)
    masks = torch.rand(objects, 16, 16, generator=generator) > 0.5
    target = MaskTargets(torch.zeros(objects, dtype=torch.int64), masks)
    layers = [
        LayerPrediction(
            (1 + rank) * torch.randn(1, 12, 3, generator=generator),
            torch.randn(1, 12, 8, 8, generator=generator),
        )
        for _ in range(2)
    ]
    judge = MaskCriterion(
        num_classes=2, matcher=MaskMatcher(num_points=20), drop=QueryDrop(settings), num_points=20
    )
    torch.manual_seed(1)
    return {name: float(value) for name, value in judge(layers, [target]).items()}


def main(rank: int, folder: Path) -> None:
    dist.init_process_group(
        "gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2
    )
    comm.create_local_process_group(2)
    found = {}
    for name, settings in (
        ("off", QueryDropSettings(enabled=False)),
        ("global", QueryDropSettings(percentile=90)),
        ("local", QueryDropSettings(percentile=90, scope="local")),
    ):
        found[name] = losses(rank, 8 if rank == 0 else 4, settings)
        found[f"{name}, one empty"] = losses(rank, 8 if rank == 0 else 0, settings)
    (folder / f"rank{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(
        main, args=(Path(sys.argv[1]),), nprocs=2, start_method="fork"
    )
