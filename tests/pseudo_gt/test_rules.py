"""Pseudo ground truth rules by their names."""

from typing import Any

import numpy as np
import pytest
from detectron2.config import get_cfg

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.pseudo_gt import (
    PSEUDO_GT_RULE_REGISTRY,
    AdaptiveRule,
    AllRule,
    SoSRule,
    ThresholdRule,
    Top1Rule,
    TopKRule,
    W2NRule,
    build_pseudo_gt_rule,
)

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
    with pytest.raises(ValueError, match="'best', registered are: adaptive, all, sos"):
        build_pseudo_gt_rule(cfg)


@pytest.mark.parametrize("options", [{"score_thresh": 1.5}, {"norm": "max"}, {"contain": "iou"}])
def test_wrong_settings_name_their_key(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"PSEUDO_GT.{next(iter(options)).upper()}"):
        AdaptiveRule(**options)


OTHERS = {
    "topk": (TopKRule(), TopKRule(3), {"TOPK": 3}),
    "threshold": (ThresholdRule(), ThresholdRule(0.4, 2), {"THRESHOLD": 0.4, "MAX_PER_CLASS": 2}),
    "all": (AllRule(), AllRule(2), {"MAX_PER_CLASS": 2}),
    "sos": (SoSRule(), SoSRule(0.3, 0.7), {"SOS_THRESH": 0.3, "CONTAINMENT_THRESH": 0.7}),
    "w2n": (W2NRule(), W2NRule(0.6, 0.4), {"W2N_THRESH": 0.6, "W2N_NMS": 0.4}),
}


@pytest.mark.parametrize("name", OTHERS)
def test_every_rule_is_built_from_its_own_keys(cfg: Any, name: str) -> None:
    default, changed, keys = OTHERS[name]
    cfg.WEAKSAM.PSEUDO_GT.RULE = name
    assert build_pseudo_gt_rule(cfg) == default and default.name == name
    for key, value in keys.items():
        cfg.WEAKSAM.PSEUDO_GT[key] = value
    assert build_pseudo_gt_rule(cfg) == changed


@pytest.mark.parametrize(
    ("rule", "index"),
    [
        (TopKRule(), [0, 1]),
        (ThresholdRule(), [0, 1, 2]),
        (AllRule(), [0, 1, 2, 3]),
        (SoSRule(), [0, 2]),
        (W2NRule(), [0, 1]),
    ],
)
def test_the_other_rules_on_the_example(rule: Any, index: list[int]) -> None:
    selection = rule(BOXES, SCORES, CLASSES, [0])
    assert selection.index.tolist() == index
    # Always the place between the worst and the best score of the class, cut or not.
    scaled = (SCORES - 0.1) / 0.8
    assert selection.score_norm.tolist() == pytest.approx(scaled[index].tolist())


def test_every_registered_rule_takes_nothing_and_unknown_tags(cfg: Any) -> None:
    for name, _ in PSEUDO_GT_RULE_REGISTRY:
        cfg.WEAKSAM.PSEUDO_GT.RULE = name
        rule = build_pseudo_gt_rule(cfg)
        nothing = rule(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=np.int64), [0])
        assert len(nothing.index) == len(nothing.score_norm) == 0
        assert len(rule(BOXES, SCORES, CLASSES, []).index) == 0


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: TopKRule(0), "TOPK"),
        (lambda: ThresholdRule(float("nan")), "THRESHOLD"),
        (lambda: SoSRule(0.2, 1.5), "CONTAINMENT_THRESH"),
        (lambda: SoSRule(float("inf")), "SOS_THRESH"),
        (lambda: W2NRule(0.7, -0.1), "W2N_NMS"),
    ],
)
def test_wrong_settings_of_the_other_rules_name_their_key(make: Any, key: str) -> None:
    with pytest.raises(ValueError, match=f"PSEUDO_GT.{key}"):
        make()
