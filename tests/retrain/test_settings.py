"""Every option of RoI drop that cannot work says so."""

from typing import Any

import pytest
from detectron2.config import get_cfg

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.retrain import RoIDropSettings


@pytest.mark.parametrize(
    "options",
    [
        {"threshold": "relative"},
        {"percentile": 0.9},
        {"percentile": 101},
        {"ema": 1.0},
        {"drop_background": True},
        {"score_weight": "score"},
    ],
)
def test_a_wrong_value_names_its_key(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"MODEL.ROI_DROP.*{next(iter(options)).upper()}"):
        RoIDropSettings(**options)


def test_every_key_of_the_config_arrives() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    wanted = {
        **{"mode": "reg", "cls_thresh": 2.0, "reg_thresh": 3.0, "reg_reduce": "sum"},
        **{"norm": "kept", "start_iter": 5, "stages": (0, 2), "mask": True},
        **{"threshold": "percentile", "percentile": 95, "ema": 0.5, "drop_background": True},
        "score_weight": "score_norm",
    }
    node = cfg.MODEL.ROI_DROP
    assert {key.lower() for key in node} == wanted.keys()
    for key, value in wanted.items():
        assert node[key.upper()] != value, "the default would do"
        node[key.upper()] = value
    with pytest.raises(ValueError, match="MASK_ON"):
        RoIDropSettings.from_config(cfg)
    cfg.MODEL.MASK_ON = True
    assert RoIDropSettings.from_config(cfg) == RoIDropSettings(**wanted)
