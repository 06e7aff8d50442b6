"""The published heads by their YAMLs: every switch of weaksam.md, Sec. 5.8."""

from pathlib import Path
from typing import Any

import pytest
from detectron2.config import CfgNode, get_cfg
from detectron2.layers import ShapeSpec

from weaksam_d2.config import add_weaksam_config
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.wsod import WSODROIHeads

SWITCHES = (
    *("IMAGE_LOSS_REDUCE", "BACKGROUND_COLUMN", "SEED_MINER", "ZERO_ROW", "FG_IOU_STRICT"),
    *("IGNORE_IOU", "ROI_WEIGHT", "REFINE_NORM", "FIRST_BRANCH_WEIGHT", "REFINE_LR_MULT"),
    *("REGRESSION", "LOG_EPS", "OBJECTNESS_SCALE"),
)
COLUMNS: dict[str, tuple[Any, ...]] = {
    "mist": (
        *("mean", True, "MIST", False, False, 0.0, "seed", "rois", 3.0, 1.0),
        *("class_specific", 0.0, False),
    ),
    "oicr": (
        *("sum", False, "NearMaximum", False, False, 0.0, "seed", "rois", 1.0, 10.0),
        *("none", 1e-6, False),
    ),
    "wetectron": (
        *("mean", True, "TopScoring", True, True, 0.0, "seed", "rois", 3.0, 1.0),
        *("none", 0.0, False),
    ),
    "drn": (
        *("mean", False, "TopScoring", False, False, 0.0, "image", "weights", 1.0, 1.0),
        *("none", 0.0, True),
    ),
    "pcl": (
        *("mean", False, "TopScoring", True, False, 0.1, "seed", "rois", 3.0, 1.0),
        *("none", 1e-6, False),
    ),
}
OTHERS = {  # last ReLU, optimizer
    "mist": (False, "Adam"),
    "oicr": (True, "Adam"),
    "wetectron": (False, "SGD"),
    "drn": (True, "SGD"),
    "pcl": (True, "SGD"),
}


def load(name: str, folder: Path) -> CfgNode:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    if name in ("mist", "oicr"):
        cfg.merge_from_file(get_config_file(f"PascalVOC-Detection/{name}_V_16_1x.yaml"))
        return cfg
    bases = [get_config_file(f) for f in ("Base-WSOD-VGG16.yaml", f"reference/oicr_{name}.yaml")]
    (folder / "own.yaml").write_text(f"_BASE_: {bases}\n")
    cfg.merge_from_file(str(folder / "own.yaml"))
    return cfg


@pytest.mark.parametrize("name", COLUMNS)
def test_a_preset_is_its_column_of_the_table(name: str, tmp_path: Path) -> None:
    cfg = load(name, tmp_path)
    found = {switch: cfg.MODEL.WSOD[switch] for switch in SWITCHES}
    assert found == dict(zip(SWITCHES, COLUMNS[name], strict=True))
    assert OTHERS[name] == (cfg.MODEL.VGG.LAST_RELU, cfg.SOLVER.OPTIMIZER)
    assert cfg.SOLVER.BIAS_LR_FACTOR == 2.0 and cfg.SOLVER.WEIGHT_DECAY_BIAS == 0.0


@pytest.mark.parametrize(
    ("name", "branches", "loss", "miner", "drops"),
    [
        ("mist", 3, "WeightedCrossEntropy", "MIST", True),
        ("pcl", 3, "PCL", "GraphCenters", False),
        ("wsddn", 0, "NoneType", "NoneType", False),
        ("oicr_classic", 3, "WeightedCrossEntropy", "TopScoring", False),
    ],
)
def test_a_preset_builds_its_parts(
    name: str, branches: int, loss: str, miner: str, drops: bool
) -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.merge_from_file(get_config_file(f"PascalVOC-Detection/{name}_V_16_1x.yaml"))
    cfg.MODEL.WSOD.FC_DIM = 8
    heads = WSODROIHeads(cfg, {"plain5": ShapeSpec(channels=512, stride=8)})
    assert len(heads.refinement) == branches
    assert type(heads.refinement_loss).__name__ == loss
    assert type(heads.seed_miner).__name__ == miner
    assert (heads.drop_block is not None) == drops
