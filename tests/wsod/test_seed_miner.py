"""Seed miners: by their names, on the examples of the specification."""

from typing import Any

import pytest
import torch
from detectron2.config import CfgNode

from weaksam_d2.wsod import MIST, NearMaximum, TopScoring, build_seed_miner

BOXES = torch.tensor([[0.0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]])


@pytest.mark.parametrize("name, kind", [("TopScoring", TopScoring), ("MIST", MIST)])
def test_the_config_names_the_miner(wsod_cfg: CfgNode, name: str, kind: type) -> None:
    wsod_cfg.MODEL.WSOD.SEED_MINER = name
    assert type(build_seed_miner(wsod_cfg)) is kind


def test_config_and_keywords_make_the_same_miner(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.NEAR_MAXIMUM.FRACTION = 0.7
    wsod_cfg.MODEL.WSOD.KEEP_ONE = True
    built = build_seed_miner(wsod_cfg)
    assert vars(built) == vars(NearMaximum(fraction=0.7, keep_one=True))


def test_an_unknown_miner_is_refused_with_the_known_ones(wsod_cfg: CfgNode) -> None:
    wsod_cfg.MODEL.WSOD.SEED_MINER = "Top"
    with pytest.raises(ValueError, match="'Top'.*MIST, NearMaximum, TopScoring"):
        build_seed_miner(wsod_cfg)


def test_mist_keeps_what_no_better_candidate_overlaps() -> None:
    scores = torch.tensor([[0.9], [0.5], [0.4]])
    labels = torch.tensor([0])
    prior = MIST(top_fraction=1.0, suppress="all_prior")(BOXES, scores, labels)
    kept = MIST(top_fraction=1.0, suppress="kept")(BOXES, scores, labels)
    assert prior.boxes.tolist() == BOXES[:1].tolist()
    assert kept.boxes.tolist() == BOXES[[0, 2]].tolist()


def test_near_maximum_can_lose_a_class_and_keep_one_puts_it_back() -> None:
    scores = torch.tensor([[0.9, 0.8], [0.0, 0.0], [0.0, 0.0]])
    labels = torch.tensor([0, 1])
    assert NearMaximum()(BOXES, scores, labels).classes.tolist() == [0]
    assert NearMaximum(keep_one=True)(BOXES, scores, labels).classes.tolist() == [0, 1]


def test_zero_row_gives_the_second_class_another_proposal() -> None:
    scores = torch.tensor([[0.9, 0.8], [0.1, 0.5], [0.0, 0.0]])
    labels = torch.tensor([0, 1])
    assert TopScoring()(BOXES, scores, labels).boxes.tolist() == BOXES[[0, 0]].tolist()
    assert TopScoring(zero_row=True)(BOXES, scores, labels).boxes.tolist() == BOXES[:2].tolist()


@pytest.mark.parametrize(
    "make",
    [
        lambda: NearMaximum(fraction=0.0),
        lambda: MIST(top_fraction=1.5),
        lambda: MIST(suppress="some"),
    ],
)
def test_values_out_of_range_are_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"MODEL\.WSOD"):
        make()
