"""Pseudo ground truth rules by their names."""

from typing import Any

import numpy as np
import pytest
from detectron2.config import get_cfg

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.pseudo_gt import AdaptiveRule, Top1Rule, build_pseudo_gt_rule

# weaksam.md, Sec. 6.3, example 1
BOXES = np.array([[0, 0, 100, 100], [10, 10, 50, 50], [120, 0, 200, 80], [300, 300, 310, 310]])
SCORES = np.array([0.9, 0.8, 0.5, 0.1])
CLASSES = np.zeros(4, dtype=np.int64)


@pytest.fixture
def cfg() -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    return cfg


def test_the_example_of_the_specification() -> None:
    selection = AdaptiveRule()(BOXES, SCORES, CLASSES, [0])
    assert selection.index.tolist() == [0, 2]
    assert selection.score_norm.tolist() == pytest.approx([1.0, 0.5])
    assert Top1Rule()(BOXES, SCORES, CLASSES, [0]).index.tolist() == [0]


def test_a_class_that_the_image_does_not_have_gives_nothing() -> None:
    for rule in (AdaptiveRule(), Top1Rule()):
        assert len(rule(BOXES, SCORES, CLASSES, [1]).index) == 0


def test_the_config_names_the_rule_and_its_settings(cfg: Any) -> None:
    node = cfg.WEAKSAM.PSEUDO_GT
    assert build_pseudo_gt_rule(cfg) == AdaptiveRule()
    node.SCORE_THRESH, node.CONTAINMENT_THRESH, node.MAX_PER_CLASS = 0.5, 0.7, 2
    node.NORM, node.CONTAIN = "release", "score"
    built = build_pseudo_gt_rule(cfg)
    assert built == AdaptiveRule(0.5, 0.7, "release", "score", 2)
    assert built.parameters()["containment_thresh"] == 0.7
    node.RULE = "top1"
    assert build_pseudo_gt_rule(cfg) == Top1Rule()


def test_a_setting_changes_the_choice() -> None:
    parts = AdaptiveRule(containment_thresh=1.0, contain="score", score_thresh=0.0)
    assert 3 in parts(BOXES, SCORES, CLASSES, [0]).index
    assert AdaptiveRule(max_per_class=1)(BOXES, SCORES, CLASSES, [0]).index.tolist() == [0]


def test_an_unknown_rule_is_refused_with_the_known_ones(cfg: Any) -> None:
    cfg.WEAKSAM.PSEUDO_GT.RULE = "best"
    with pytest.raises(ValueError, match="'best', registered are: adaptive, top1"):
        build_pseudo_gt_rule(cfg)


@pytest.mark.parametrize("options", [{"score_thresh": 1.5}, {"norm": "max"}, {"contain": "iou"}])
def test_wrong_settings_name_their_key(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"PSEUDO_GT.{next(iter(options)).upper()}"):
        AdaptiveRule(**options)
