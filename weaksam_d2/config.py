"""Every config key of weaksam_d2 (projects add their own), its default and its meaning.

The defaults are the *paper* preset; ``configs/reference/*.yaml`` are small files, taken as
``_BASE_``, that restore what released code does where the two differ.
"""

from typing import Any

from detectron2.config import CfgNode as CN

__all__ = ["add_weaksam_config"]


def add_weaksam_config(cfg: Any) -> None:
    """Add our keys to a detectron2 config, in place. No stock key changes its value."""
    _add_model(cfg)
    _add_stages(cfg)
    _add_training(cfg)


def _add_model(cfg: Any) -> None:
    cfg.MODEL.VGG = CN()
    cfg.MODEL.VGG.CONV5_DILATION = 2  # 2: pool4 removed, stride 8 (weakly supervised detection)
    cfg.MODEL.VGG.LAST_RELU = True  # ReLU after conv5_3 (MIST: False)
    cfg.MODEL.VGG.OUT_FEATURES = ("plain5",)

    cfg.MODEL.TIMM = CN()
    cfg.MODEL.TIMM.NAME = ""  # a timm model that gives feature maps
    cfg.MODEL.TIMM.WEIGHTS = ""  # file | URL | "package:efficientnet-lite0"; "": random
    cfg.MODEL.TIMM.OUT_INDICES = (1, 2, 3, 4)  # timm feature indices; stride 2^(index+1)
    cfg.MODEL.TIMM.FPN_CHANNELS = 256
    cfg.MODEL.TIMM.FREEZE_AT = 0  # freeze the stem and this many stages (5: whole network)
    cfg.MODEL.TIMM.FREEZE_NORM = True  # batch norm keeps its ImageNet statistics

    cfg.MODEL.CLASSIFIER = CN()
    cfg.MODEL.CLASSIFIER.NETWORK = "CNN"  # registered CAM_NETWORK

    _add_wsod(cfg)

    drop = cfg.MODEL.ROI_DROP = CN()  # WeakSAM, Sec. 3.4, Eq. 1-2
    drop.MODE = "paper"  # paper | release_both | cls | reg | off
    drop.CLS_THRESH = 4.0  # nats; COCO 5.0
    drop.REG_THRESH = 1.0  # box loss of a RoI, reduced as REG_REDUCE says
    drop.REG_REDUCE = "mean4"  # mean4 | sum over the four coordinates
    drop.NORM = "total"  # total: all sampled RoIs; kept: those that stay
    drop.START_ITER = -1  # iterations; -1: round(2/9 * SOLVER.MAX_ITER)


def _add_wsod(cfg: Any) -> None:
    wsod = cfg.MODEL.WSOD = CN()
    wsod.SEED_MINER = "NearMaximum"  # NearMaximum (WeakSAM's OICR) | TopScoring | MIST
    wsod.REFINEMENT_LOSS = "WeightedCrossEntropy"
    wsod.NUM_REFINEMENTS = 3  # K; 0: WSDDN alone
    wsod.IMAGE_LOSS_REDUCE = "sum"  # sum | mean over classes
    wsod.CLAMP_EPS = 1e-6  # image scores are clamped to [eps, 1 - eps]
    wsod.KEEP_ONE = False  # put back a class's best seed if class-agnostic NMS removed it
    wsod.ZERO_ROW = False  # a seed's row is zero for later classes (order dependent)
    wsod.FG_IOU = 0.5  # proposal is foreground at IoU >= this with its best seed
    wsod.IGNORE_IOU = 0.0  # weight 0 below this IoU (PCL code: 0.1)
    wsod.FIRST_BRANCH_WEIGHT = 1.0  # lambda_1 (MIST: 3)
    wsod.REFINE_LR_MULT = 10.0  # learning rate of the refinement branches (MIST: 1)
    wsod.FC_DIM = 4096
    wsod.NUM_FC = 2
    wsod.DROPOUT = 0.5
    wsod.INIT_STD = 0.01
    wsod.MIN_SIDE = 20  # proposals below this side (pixels of the original image) are left out
    wsod.TEST_LABEL_FILTER = False  # cut untagged classes (when detecting for pseudo boxes)
    wsod.NEAR_MAXIMUM = CN()
    wsod.NEAR_MAXIMUM.FRACTION = 0.9  # seeds score at least this share of the class's maximum
    wsod.NEAR_MAXIMUM.NMS_THRESH = 0.5  # class-agnostic NMS among the seeds
    wsod.MIST = CN()
    wsod.MIST.TOP_FRACTION = 0.15
    wsod.MIST.IOU_THRESH = 0.2
    wsod.MIST.SUPPRESS = "all_prior"  # all_prior (what made the numbers) | kept (MIST paper)


def _add_stages(cfg: Any) -> None:
    cfg.WEAKSAM = CN()
    _add_maps_and_prompts(cfg.WEAKSAM)
    _add_proposals(cfg.WEAKSAM)

    pgt = cfg.WEAKSAM.PSEUDO_GT = CN()  # WeakSAM, Sec. 3.3, Alg. 2
    pgt.RULE = "adaptive"  # adaptive | top1
    pgt.SCORE_THRESH = 0.3  # tau_s, of the normalized score
    pgt.CONTAINMENT_THRESH = 0.85  # tau_o, share of the judged box inside a kept one
    pgt.NORM = "minmax"  # minmax (paper) | release (score / maximum difference)
    pgt.CONTAIN = "area"  # area | score | literal: who may remove whom
    pgt.MAX_PER_CLASS = 0  # 0: no limit

    cfg.PIPELINE = CN()
    cfg.PIPELINE.CAMS_CONFIG = ""  # YAMLs of the trained stages, relative to the pipeline's
    cfg.PIPELINE.WSOD_CONFIG = ""
    cfg.PIPELINE.RETRAIN_CONFIG = ""
    cfg.PIPELINE.STAGES = ("cams", "prompts", "proposals", "wsod", "pseudo_gt", "retrain")
    cfg.PIPELINE.SELECTIVE_SEARCH = True  # the baseline's boxes and recall as well
    cfg.PIPELINE.ABLATIONS = False  # retrain without RoI drop as well
    cfg.PIPELINE.SUPERVISED_TWIN = False  # the retrained detector on true boxes as well
    cfg.PIPELINE.REPORT_IMAGES = 12


def _add_maps_and_prompts(weaksam: Any) -> None:
    weaksam.CAMS = CN()
    weaksam.CAMS.SCALES = (1.0, 0.8, 1.2)  # of the image, each with its mirror image if FLIP
    weaksam.CAMS.FLIP = True
    weaksam.CAMS.RESIZE = "round16"  # view size: nearest multiple of 16
    weaksam.CAMS.EPS = 1e-8  # of the min-max normalization
    weaksam.CAMS.MAX_MAP_CHUNK = 64  # full-size maps in memory at once
    weaksam.CAMS.GATE_TRAIN = "gt"  # gt: the image's tags | pred: predicted classes
    weaksam.CAMS.GATE_TEST = "pred"
    weaksam.CAMS.PRED_LOGIT = -0.5  # a class is predicted above this logit

    prompts = weaksam.PROMPTS = CN()
    prompts.SOURCES = ("Grid", "CoarseCAMPeaks", "FineCAMPeaks", "CrossAttentionPeaks")
    for node, kernel, joint, divisor in (
        ("COARSE", 17, True, 0),
        ("FINE", 17, True, 0),
        ("CROSS", 129, False, 5),
    ):
        source = prompts[node] = CN()
        source.KERNEL_SIZE = kernel  # pixels; even values count as the next odd one
        source.THRESHOLD = 0.9  # of the normalized map
        source.TOPK = 25  # candidates for each map, before the distance rule
        source.METRIC = "l1"  # l1: strict, (k-1)//2 | l2: k/2
        source.PLATEAU = "all"  # all | first pixel of each plateau
        source.JOINT = joint  # one more prompt for each class with all its peaks
        source.CLUSTER_DIVISOR = divisor  # k-means with n // divisor centers; 0: no clustering
        source.CLUSTER_SEED = 0
        source.MAX_POINTS = 20000  # before clustering
    prompts.GRID = CN()
    prompts.GRID.POINTS_PER_SIDE = 32


def _add_proposals(weaksam: Any) -> None:
    sam = weaksam.SAM = CN()
    sam.BACKEND = "SegmentAnything"  # registered SAM_BACKEND
    sam.ARCH = "vit_h"  # vit_h | vit_l | vit_b | vit_t (MobileSAM)
    sam.WEIGHTS = ""  # file | URL; "": the published file of ARCH
    sam.INPUT_SIZE = 1024  # pixels, longest side
    sam.POINTS_PER_BATCH = 64  # prompts decoded in one call (does not change a result)
    sam.DTYPE = "float32"  # float32 | bfloat16, of the image encoder

    proposals = weaksam.PROPOSALS = CN()
    proposals.METHOD = "SAM"  # SAM | SelectiveSearch
    proposals.BOXES_AT = "full"  # resolution of the masks that boxes are read from: full | low
    proposals.MAX_PER_IMAGE = 2000
    proposals.DEDUPLICATE = 0.0625  # pixels; equal after rounding to this: one is dropped
    for node, indices, quality, stability, nms in (
        ("GRID", (0, 1, 2), 0.3, 0.3, 0.3),
        ("COARSE", (1, 2), 0.0, 0.0, 1.0),
        ("FINE", (1, 2), 0.0, 0.0, 1.0),
        ("CROSS", (1, 2), 0.0, 0.0, 0.9),
    ):
        source = proposals[node] = CN()
        source.MASK_INDICES = indices  # of SAM's three masks for a prompt
        source.QUALITY_THRESH = quality  # predicted IoU above this; 0: off
        source.STABILITY_THRESH = stability  # at least this; 0: off
        source.NMS_THRESH = nms  # GRID by quality, the others in prompt order; 1: off


def _add_training(cfg: Any) -> None:
    cfg.DATASETS.REGISTER = ()  # modules to import, which register data sets
    cfg.DATASETS.TAGGED = ()  # (name, image folder, tags file) triples
    cfg.DATASETS.VOC = ()  # (name, root, split, year, classes): registers name_weak, name_eval
    cfg.DATASETS.PSEUDO_GT_TRAIN = ()  # pseudo_gt.json for each name in TRAIN
    cfg.INPUT.MAPPER_NAME = ""  # registered DATASET_MAPPER; "": detectron2's own
    cfg.SOLVER.OPTIMIZER = "SGD"  # SGD | Adam | AdamW
    cfg.SOLVER.ACCUMULATION_STEPS = 1  # batches for each optimizer step
    cfg.SOLVER.LR_MULTIPLIERS = ()  # (regular expression of parameter names, factor) pairs
    cfg.SOLVER.AMP.DTYPE = "float16"  # float16 (CUDA) | bfloat16
    cfg.TEST.VOC07_METRIC = "11point"  # 11point | area
    cfg.TEST.VOC12_METRIC = "area"
    cfg.TEST.RECALL_MATCH = "one2one"  # one2one | any
    cfg.TEST.RECALL_IOUS = (0.5, 0.75, 0.9)
    cfg.TEST.BOOTSTRAP = 0  # resamples over images for confidence intervals; 0: none
