"""The weakly supervised detector: OICR, classic OICR and MIST from one set of parts."""

from .box_head import WSODBoxHead  # registers WSODBoxHead
from .mil_head import MILOutputLayers
from .rcnn import WSODRCNN  # registers WSODRCNN
from .refinement import (  # registers WeightedCrossEntropy
    REFINEMENT_LOSS_REGISTRY,
    RefinementBranch,
    RefinementLoss,
    WeightedCrossEntropy,
    build_refinement_loss,
)
from .roi_heads import WSODROIHeads  # registers WSODROIHeads
from .seed_miner import (  # registers TopScoring, NearMaximum, MIST
    MIST,
    SEED_MINER_REGISTRY,
    NearMaximum,
    SeedMiner,
    TopScoring,
    build_seed_miner,
)

__all__ = [
    "MIST",
    "REFINEMENT_LOSS_REGISTRY",
    "SEED_MINER_REGISTRY",
    "MILOutputLayers",
    "NearMaximum",
    "RefinementBranch",
    "RefinementLoss",
    "SeedMiner",
    "TopScoring",
    "WSODBoxHead",
    "WSODRCNN",
    "WSODROIHeads",
    "WeightedCrossEntropy",
    "build_refinement_loss",
    "build_seed_miner",
]
