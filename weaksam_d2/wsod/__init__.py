"""The weakly supervised detector: WSDDN, OICR, PCL and MIST from one set of parts."""

from .box_head import WSODBoxHead  # registers WSODBoxHead
from .dropblock import ConcreteDropBlock, build_drop_block
from .full_supervision import BoxTargets, FullSupervision, build_full_supervision
from .mil_head import MILOutputLayers
from .pcl import PCL, GraphCenters  # registers PCL
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
from .test_time_augmentation import WSODRCNNWithTTA

__all__ = [
    "MIST",
    "PCL",
    "REFINEMENT_LOSS_REGISTRY",
    "SEED_MINER_REGISTRY",
    "BoxTargets",
    "ConcreteDropBlock",
    "FullSupervision",
    "GraphCenters",
    "MILOutputLayers",
    "NearMaximum",
    "RefinementBranch",
    "RefinementLoss",
    "SeedMiner",
    "TopScoring",
    "WSODBoxHead",
    "WSODRCNN",
    "WSODRCNNWithTTA",
    "WSODROIHeads",
    "WeightedCrossEntropy",
    "build_drop_block",
    "build_full_supervision",
    "build_refinement_loss",
    "build_seed_miner",
]
