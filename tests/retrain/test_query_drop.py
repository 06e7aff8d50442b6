"""Query drop over layers, images and ranks: who is ranked with whom, when, and what is logged."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.utils.events import EventStorage
from torch import Tensor

from weaksam_d2 import add_weaksam_config
from weaksam_d2.ops.drop import query_rank_loss
from weaksam_d2.retrain import QueryDrop, QueryDropSettings


def drop_of(**options: Any) -> QueryDrop:
    return QueryDrop(QueryDropSettings(**options))


def losses_of_two_images() -> tuple[Tensor, Tensor]:
    """Two images of 20 queries; the first 10 of each are matched and have the losses 0 to 19."""
    loss = torch.zeros(2, 20)
    loss[:, :10] = torch.arange(20.0).view(2, 10)
    matched = torch.zeros(2, 20, dtype=torch.bool)
    matched[:, :10] = True
    return loss, matched


def dropped(keep: Tensor) -> list[list[int]]:
    return [[int(v) for v in place] for place in (~keep).nonzero()]


def test_the_matched_queries_of_a_batch_are_ranked_together() -> None:
    loss, matched = losses_of_two_images()
    (keep,) = drop_of()([loss], [matched])
    assert dropped(keep) == [[1, 8], [1, 9]]
    (keep,) = drop_of(scope="image")([loss], [matched])
    assert dropped(keep) == [[0, 9], [1, 9]]
    (keep,) = drop_of(percentile=80)([loss], [matched])
    assert dropped(keep) == [[1, 6], [1, 7], [1, 8], [1, 9]]
    (keep,) = drop_of(percentile=100)([loss], [matched])
    assert keep.all()


def test_each_layer_has_its_own_limit_and_its_own_number_of_queries() -> None:
    loss, matched = losses_of_two_images()
    first, last = drop_of()([-loss[:, :12], loss], [matched[:, :12], matched])
    assert first.shape == (2, 12) and last.shape == (2, 20)
    assert dropped(first) == [[0, 0], [0, 1]] and dropped(last) == [[1, 8], [1, 9]]


def test_background_drops_only_where_it_is_asked_for() -> None:
    loss = torch.tensor([[1.0, 2.0, 5.0, *(0.1 * i for i in range(17))]])
    matched = torch.arange(20)[None] < 3
    (keep,) = drop_of()([loss], [matched])
    assert keep.all()  # 3 matched ones are too few for ten percent
    (keep,) = drop_of(pool="all_then_fg")([loss], [matched])
    assert dropped(keep) == [[0, 2]]
    for options in ({"pool": "all"}, {"group": "things+background"}):
        (keep,) = drop_of(**options)([loss], [matched])
        assert dropped(keep) == [[0, 2], [0, 19]]


def test_before_its_start_and_switched_off_nothing_drops() -> None:
    loss, matched = losses_of_two_images()
    with EventStorage(3) as storage:
        (keep,) = drop_of(start_iter=4)([loss], [matched])
        assert keep.all() and storage.latest()["query_drop/active"] == (0.0, 3)
        assert "query_drop/frac_fg" not in storage.latest()
    with EventStorage(4) as storage:
        drop_of(start_iter=4)([loss], [matched])
        shown = {name: value for name, (value, _) in storage.latest().items()}
        assert shown == {
            "query_drop/active": 1.0,
            "query_drop/frac_fg": 0.1,
            "query_drop/frac_bg": 0.0,
            "query_drop/mean_rank_dropped": 18.5,
        }
    with EventStorage(4) as storage:
        (keep,) = drop_of(enabled=False)([loss], [matched])
        assert keep.all() and not storage.latest()


def test_a_batch_without_objects_or_images_is_kept() -> None:
    loss, matched = losses_of_two_images()
    assert drop_of()([loss], [torch.zeros_like(matched)])[0].all()
    assert drop_of()([loss[:0]], [matched[:0]])[0].shape == (0, 20)
    assert drop_of(scope="image")([loss[:0]], [matched[:0]])[0].shape == (0, 20)
    assert drop_of()([], []) == []


def test_a_loss_that_is_not_finite_is_an_error() -> None:
    loss, matched = losses_of_two_images()
    loss[0, 3] = float("nan")
    with pytest.raises(FloatingPointError, match="loss of a query is not finite"):
        drop_of()([loss], [matched])


def test_the_rank_loss_is_the_plain_cross_entropy_of_a_row() -> None:
    logits = torch.tensor([[0.0, 2.0], [-1.0, 1.0]])
    found = query_rank_loss(logits, torch.tensor([1, 2]))
    p = logits.sigmoid()
    expected = [-(1 - p[0, 0]).log() - p[0, 1].log(), -(1 - p[1]).log().sum()]
    assert torch.allclose(found, torch.stack(expected))
    focal = query_rank_loss(logits, torch.tensor([1, 2]), kind="focal")
    by_hand = 0.75 * p[0, 0] ** 2 * expected_bce(0, p[0, 0]) + 0.25 * (
        1 - p[0, 1]
    ) ** 2 * expected_bce(1, p[0, 1])
    assert torch.allclose(focal[0], by_hand)
    half = query_rank_loss(logits.half() * 100, torch.tensor([0, 2]))
    assert half.dtype == torch.float32 and torch.isfinite(half).all()
    with pytest.raises(ValueError, match="kind must be one of"):
        query_rank_loss(logits, torch.tensor([0, 0]), kind="mse")


def expected_bce(target: int, p: Tensor) -> Tensor:
    return -(p if target else 1 - p).log()


def test_config_keys_are_the_settings_and_bad_values_name_them() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    assert QueryDropSettings.from_config(cfg) == QueryDropSettings(enabled=False)
    assert set(cfg.MODEL.QUERY_DROP) == {n.upper() for n in QueryDropSettings.__dataclass_fields__}
    for key, value in (
        ("GROUP", "stuff"),
        ("SCOPE", "node"),
        ("PERCENTILE", 0),
        ("START_ITER", -1),
    ):
        wrong = cfg.clone()
        wrong.MODEL.QUERY_DROP[key] = value
        with pytest.raises(ValueError, match=f"MODEL.QUERY_DROP.{key}"):
            QueryDropSettings.from_config(wrong)


RANKS = """
import json, sys
import torch, torch.distributed as dist
from weaksam_d2.retrain import QueryDrop, QueryDropSettings
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
# Rank 0 has no object in its first layer, rank 1 has eight; another number of queries on each.
loss = [torch.arange(12.0)[None], torch.arange(12.0)[None] + 3 * rank]
matched = [torch.arange(12)[None] < 8 * rank, torch.arange(12)[None] < 10]
if rank:
    loss = [one.repeat(2, 1) + torch.tensor([[0.0], [20.0]]) for one in loss]
    matched = [one.repeat(2, 1) for one in matched]
found = {}
for name in ("global", "local"):
    for pool in ("fg", "all"):
        keep = QueryDrop(QueryDropSettings(scope=name, pool=pool))(loss, matched)
        found[name + pool] = [(~one).nonzero().tolist() for one in keep]
print(json.dumps(found))
"""


def test_ranks_are_ranked_together_and_one_without_objects_takes_part(tmp_path: Path) -> None:
    command = [sys.executable, "-c", RANKS]
    started = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE)
        for rank in range(2)
    ]
    first, second = (json.loads(one.communicate(timeout=120)[0]) for one in started)
    assert all(one.returncode == 0 for one in started)
    # Layer 0: 16 matched, all on rank 1: its largest goes. Layer 1: 30 matched, the three largest.
    assert first["globalfg"] == [[], []]
    assert second["globalfg"] == [[[1, 7]], [[1, 7], [1, 8], [1, 9]]]
    # Alone, rank 0 has 10 matched in layer 1 and rank 1 has 20.
    assert first["localfg"] == [[], [[0, 9]]]
    assert second["localfg"] == [[[1, 7]], [[1, 8], [1, 9]]]
    loss = torch.cat([torch.arange(12.0), torch.arange(12.0), torch.arange(12.0) + 20])
    matched = torch.cat([torch.zeros(12, dtype=torch.bool), *[torch.arange(12) < 8] * 2])
    (keep,) = drop_of(pool="all")([loss[None]], [matched[None]])
    flat = [
        12 * (rank + row) + place
        for rank, one in enumerate((first, second))
        for row, place in one["globalall"][0]
    ]
    assert flat == (~keep[0]).nonzero().flatten().tolist()
