"""The criterion of docs/query_drop.md, as it stands there."""

import re
from pathlib import Path
from typing import Any

import torch

from weaksam_d2.ops.drop import query_drop_mask, query_rank_loss

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "query_drop.md"


def test_the_documented_criterion_leaves_out_the_rows_of_dropped_queries() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), flags=re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip()]) <= 10
    names: dict[str, Any] = {}
    exec(compile(block, str(DOCUMENT), "exec"), names)
    torch.manual_seed(0)
    logits = [torch.randn(2, 30, 4) * 3 for _ in range(2)]
    classes = [torch.randint(0, 4, (2, 30)) for _ in range(2)]
    classes[1][:, 12:] = 4
    rows = [torch.rand(2, 30, requires_grad=True) for _ in range(2)]
    loss = names["criterion"](logits, classes, rows, 7.0)
    loss.backward()
    for z, c, row, count in zip(logits, classes, rows, (6, 2), strict=True):
        matched = c < 4
        rank = query_rank_loss(z, c)
        keep = query_drop_mask(rank.flatten(), percentile=90, foreground=matched.flatten())
        assert int((~keep).sum()) == count
        assert torch.allclose(row.grad, keep.view(2, 30) / 7.0)
