"""The criterion on two processes: one count of objects and one pool of query drop for both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def test_ranks_share_the_number_of_objects_and_the_pool_of_query_drop(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("two_mask_ranks.py")), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    one, two = (json.loads((tmp_path / f"rank{r}.json").read_text()) for r in (0, 1))
    # 8 objects and 4, or 8 and none: the same sums of masks, divided by 6 or by 4.
    for name in ("loss_mask", "loss_dice_0"):
        assert one["off, one empty"][name] / one["off"][name] == pytest.approx(6 / 4, rel=1e-4)
        assert two["off, one empty"][name] == 0 < two["off"][name]
    # 12 matched queries of both ranks: one goes. Of 8 and of 4 alone: none.
    for name in ("loss_mask", "loss_ce_0"):
        assert one["local"][name] == one["off"][name] and two["local"][name] == two["off"][name]
        fell = [rank["global"][name] < rank["off"][name] for rank in (one, two)]
        assert sorted(fell) == [False, True], name
    assert one["global, one empty"] == one["off, one empty"]  # 8 matched: none goes
