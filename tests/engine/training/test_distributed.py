"""Training on two processes without a GPU: torchrun, gloo, every head and retraining."""

import json
import os
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[3]


def test_two_ranks_train_as_one_although_one_has_no_label_proposal_or_box(tmp_path: Path) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run"),
            *("--standalone", "--nproc_per_node", "2"),
            *(str(REPO / "tests/engine/training/two_ranks.py"), str(tmp_path / "run")),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    ranks = [json.loads((tmp_path / f"run/rank{r}.json").read_text()) for r in (0, 1)]
    assert ranks[0] == ranks[1]  # the limits of RoI drop, too
    for task in ("mixed", "teacher"):
        assert ranks[0][task]["exact"], f"{task}: a resumed run differs from an uninterrupted one"
    assert ranks[0]["teacher"]["teacher"] != 0 == ranks[0]["retrain"]["teacher"]
    ((_, _, background),) = ranks[0]["percentile"]["limits"]
    assert background > 0 and not ranks[0]["retrain"]["limits"]
    for task in ("wsod", "pcl", "mist", "retrain", "percentile", "teacher", "mixed"):
        found = ranks[0][task]
        assert found["wrapped"] == "DistributedDataParallel"
        assert found["equal"], "the ranks drifted apart: gradients were not averaged"
        assert found["moved"] > 5 and found["iterations"] == 2
        assert (tmp_path / "run" / task / "model_final.pth").exists()
