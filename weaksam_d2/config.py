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
    # 8 or 16: later stages of a CNN are dilated instead (timm's output_stride); level index i is
    # then named c<i+1>, as it is without dilation.
    cfg.MODEL.TIMM.OUTPUT_STRIDE = 32
    cfg.MODEL.TIMM.FPN_CHANNELS = 256
    cfg.MODEL.TIMM.FREEZE_AT = 0  # freeze the stem and this many stages (5: whole network)
    cfg.MODEL.TIMM.FREEZE_NORM = True  # batch norm keeps its ImageNet statistics

    _add_classifier(cfg)
    _add_wsod(cfg)
    _add_segmentation(cfg)

    drop = cfg.MODEL.ROI_DROP = CN()  # WeakSAM, Sec. 3.4, Eq. 1-2
    drop.MODE = "paper"  # paper | release_both | cls | reg | off
    drop.CLS_THRESH = 4.0  # nats; COCO 5.0
    drop.REG_THRESH = 1.0  # box loss of a RoI, reduced as REG_REDUCE says
    drop.REG_REDUCE = "mean4"  # mean4 | sum over the four coordinates
    drop.NORM = "total"  # total: all sampled RoIs; kept: those that stay
    drop.START_ITER = -1  # iterations; -1: round(2/9 * SOLVER.MAX_ITER)
    drop.STAGES = (0, 1, 2)  # of a cascade: those that drop, each by its own losses
    drop.MASK = False  # a dropped RoI adds nothing to the mask loss either
    # percentile: the limits are running percentiles of the losses, of objects and of background
    # apart, instead of CLS_THRESH and REG_THRESH (extras.md, Sec. 3).
    drop.THRESHOLD = "absolute"  # absolute | percentile
    drop.PERCENTILE = 90  # percent, whole; with both criteria up to twice the rest goes
    drop.EMA = 0.99  # momentum of the running limits; 0: each batch has its own
    drop.DROP_BACKGROUND = False  # percentile: background too, by its classification loss
    # Weight of a RoI's loss: the score_norm of its pseudo box (extras.md, Sec. 4).
    drop.SCORE_WEIGHT = ""  # "": off | score_norm
    _add_query_drop(cfg)


def _add_segmentation(cfg: Any) -> None:
    # The keys of detectron2's DeepLab project, new ones all of them; a user may have added them.
    if "LOSS_TYPE" not in cfg.MODEL.SEM_SEG_HEAD:
        from detectron2.projects.deeplab import add_deeplab_config

        add_deeplab_config(cfg)
    head = cfg.MODEL.SEM_SEG_HEAD  # LOSS_TYPE of our heads: cross_entropy | clip (WeakTr)
    head.CLIP_START = 1.2  # clip: losses are cut off once their mean is at most this
    head.CLIP_PATCH = 120  # pixels, side of the windows whose mean a loss may not exceed
    cfg.MODEL.WRN38 = CN()  # build_wrn38_backbone
    cfg.MODEL.WRN38.WEIGHTS = ""  # file | URL: all of the network (tools/convert_wrn38.py)
    cfg.MODEL.WRN38.WIDTH = 64  # channels of the first convolution; 64 is the published network


def _add_query_drop(cfg: Any) -> None:
    drop = cfg.MODEL.QUERY_DROP = CN()  # WeakSAM, Sec. 3.4, Eq. 3-4; of the projects' detectors
    drop.ENABLED = False
    drop.PERCENTILE = 90  # percent, whole; 100 drops nothing
    drop.GROUP = "things"  # matched queries | things+background: all
    # Among whom the percentile is taken: matched queries; or all, both groups scaled to [0, 1]
    # (GROUP things+background always does so).
    drop.POOL = "fg"  # fg | all_then_fg | all (as GROUP things+background)
    drop.RANK = "bce"  # bce: cross entropies, not weighted | focal: the focal loss
    drop.SCOPE = "global"  # the batch of all ranks | local: of this rank | image
    drop.ENCODER = True  # the queries that the encoder selects drop too (two-stage detectors)
    drop.DENOISING = False  # denoising queries too
    drop.START_ITER = 0
    drop.NORM = "total"  # number of objects in a loss: total | kept, scaled by the kept share


def _add_classifier(cfg: Any) -> None:
    node = cfg.MODEL.CLASSIFIER = CN()
    node.NETWORK = "CNN"  # registered CAM_NETWORK
    # File | URL: weights as their authors published them (an ImageNet file only initializes);
    # MODEL.WEIGHTS is a checkpoint of our own training.
    node.WEIGHTS = ""
    node.OPEN_LABELS = False  # untagged classes are unknown unless negative_labels has them
    node.VIT = "deit_small_patch16_224"  # timm model of the networks with class tokens
    node.DEPTH = 0  # blocks of it; 0: the model's own
    node.PATCHES = "pixels"  # what its patches are made of: pixels | cnn (MODEL.TIMM, stride 16)
    node.DROP_PATH = 0.1  # probability of a dropped branch in the last block, 0 in the first
    # Position embedding of another grid: "size" resizes to it, "scale" gives the factor that
    # published weights were trained with (they need it).
    node.POS_INTERP = "size"  # size | scale
    # What a channel of the network is: a class of the data set, or (WeakTr's COCO weights) the
    # COCO category id - 1, of 90 with ten gaps.
    node.CHANNELS = "contiguous"  # contiguous | coco_category_ids
    node.WEAKTR = CN()
    node.WEAKTR.FUSION = "v3"  # v3 (from pooled features) | v2, v1 (from pooled attention)
    node.WEAKTR.POOL = "max"  # max | avg over the tokens
    node.WEAKTR.FEATURE = "attn_out"  # attn_out | block_out (v2 with features)
    node.WEAKTR.REDUCTION = 8  # r: 72 attention maps through 72 / r units
    node.MCTFORMER = CN()
    node.MCTFORMER.VERSION = "V2"  # V2 | V1 (no patch head) | Plus
    node.MCTFORMER.LAYERS = 3  # last blocks whose class attention is taken (Plus: 12)
    clip = node.CLIPES = CN()  # CLIP-ES, Sec. 3.1-3.3
    clip.NAMES = "dataset"  # synonyms of class names: voc | coco | coco_reference | dataset (none)
    clip.BACKGROUND = ()  # words that compete; (): the usual ones that are in no class name
    clip.TEMPLATE = "a clean origami {}."
    clip.AFFINITY_BLOCKS = 8  # last blocks whose attention is averaged
    clip.SINKHORN = 3  # iterations
    clip.BOX_THRESH = 0.4  # share of a map's maximum that is in its boxes; COCO 0.7
    clip.BOX = "half_open"  # half_open | reference (loses the last row and column at the border)


def _add_wsod(cfg: Any) -> None:
    wsod = cfg.MODEL.WSOD = CN()
    wsod.SEED_MINER = "NearMaximum"  # NearMaximum (WeakSAM's OICR) | TopScoring | MIST
    wsod.REFINEMENT_LOSS = "WeightedCrossEntropy"  # | PCL (finds its own seeds)
    wsod.NUM_REFINEMENTS = 3  # K; 0: WSDDN alone
    wsod.IMAGE_LOSS_REDUCE = "sum"  # sum | mean over classes
    wsod.BACKGROUND_COLUMN = False  # the two streams have a background column (MIST: True)
    wsod.CLAMP_EPS = 1e-6  # image scores are clamped to [eps, 1 - eps]
    wsod.LOG_EPS = 1e-6  # refinement: -log(p + eps); 0: log-softmax (MIST)
    wsod.OPEN_LABELS = False  # untagged classes are unknown unless negative_labels has them
    wsod.KEEP_ONE = False  # put back a class's best seed if class-agnostic NMS removed it
    wsod.ZERO_ROW = False  # a seed's row is zero for later classes (order dependent)
    wsod.FG_IOU = 0.5  # proposal is foreground at IoU >= this with its best seed
    wsod.FG_IOU_STRICT = False  # True: IoU > FG_IOU
    wsod.IGNORE_IOU = 0.0  # weight 0 below this IoU (PCL code: 0.1)
    wsod.ROI_WEIGHT = "seed"  # a proposal weighs its seed's score | image: its class's image score
    wsod.REFINE_NORM = "rois"  # all proposals | weights: those whose weight is not zero
    wsod.FIRST_BRANCH_WEIGHT = 1.0  # lambda_1 (MIST: 3)
    wsod.REFINE_LR_MULT = 10.0  # learning rate of the refinement branches (MIST: 1)
    wsod.REGRESSION = "none"  # none | class_specific (MIST) | class_agnostic (last branch)
    wsod.REGRESSION_WEIGHT = 1.0  # of the box losses
    wsod.OBJECTNESS_SCALE = False  # pooled features x (1 + stored score of the proposal)
    wsod.FC_DIM = 4096
    wsod.NUM_FC = 2
    wsod.DROPOUT = 0.5
    wsod.INIT_STD = 0.01
    wsod.MIN_SIDE = 20  # proposals below this side (pixels of the original image) are left out
    wsod.BOX_LOSS_WEIGHT = 1.0  # mu, of the losses of DATASETS.BOXES_TRAIN (extras.md, Sec. 6)
    wsod.TEST_LABEL_FILTER = False  # cut untagged classes (when detecting for pseudo boxes)
    wsod.NEAR_MAXIMUM = CN()
    wsod.NEAR_MAXIMUM.FRACTION = 0.9  # seeds score at least this share of the class's maximum
    wsod.NEAR_MAXIMUM.NMS_THRESH = 0.5  # class-agnostic NMS among the seeds
    wsod.MIST = CN()
    wsod.MIST.TOP_FRACTION = 0.15
    wsod.MIST.IOU_THRESH = 0.2
    wsod.MIST.SUPPRESS = "all_prior"  # all_prior (what made the numbers) | kept (MIST paper)
    wsod.PCL = CN()
    wsod.PCL.CLUSTERS = 3  # of the class's scores; proposals of the top one are graph nodes
    wsod.PCL.EDGE_IOU = 0.4  # two nodes are neighbors above this IoU
    wsod.PCL.MAX_CENTERS = 5  # of each class
    wsod.PCL.FG_IOU = 0.5  # PCL's own FG_IOU and IGNORE_IOU
    wsod.PCL.IGNORE_IOU = 0.1
    _add_drop_block(wsod)


def _add_drop_block(wsod: Any) -> None:
    drop = wsod.DROPBLOCK = CN()  # MIST, Sec. 3.4
    drop.METHOD = ""  # "": off | concrete
    drop.TAU = 0.3  # a cell is a center of a dropped block with probability <= TAU / SIZE^2
    drop.SIZE = 3  # cells of a pooled region, odd
    drop.TEMPERATURE = 0.01  # of the Gumbel softmax
    drop.HARD = True  # straight-through: masks of 0 and 1
    drop.LOSS_WEIGHT = 0.01  # the generator's loss is minus this share of the detector's
    drop.REUSE_FEATURES = False  # second pass on the feature maps of the first
    drop.BASE_LR = 1e-5  # Adam, of the generator
    drop.WEIGHT_DECAY = 5e-4
    drop.GAMMA = 3.0  # factor of its learning rate at STEPS
    drop.STEPS = ()  # iterations; (): SOLVER.STEPS


def _add_stages(cfg: Any) -> None:
    cfg.WEAKSAM = CN()
    _add_maps_and_prompts(cfg.WEAKSAM)
    _add_proposals(cfg.WEAKSAM)

    labels = cfg.WEAKSAM.LABELS = CN()  # semantic pseudo labels: wsss.md, Sec. 3.1 and 3.6
    labels.SOURCE = "CAM"  # a LABEL_SOURCE: CAM (activation maps) | SEPL | BoxSAM (projects)
    labels.BACKGROUND = "constant:0.43"  # score of background | "power:a": (1 - best class)^a
    labels.CRF = ""  # dense CRF on the maps, a name of cams.CRF_SETTINGS; "": none
    labels.CONFIDENCE = 0.0  # a pixel whose largest CRF probability is lower is ignored

    pgt = cfg.WEAKSAM.PSEUDO_GT = CN()  # WeakSAM, Sec. 3.3, Alg. 2
    pgt.RULE = "adaptive"  # adaptive | top1 | topk | threshold | all | sos | w2n
    pgt.SCORE_THRESH = 0.3  # tau_s, of the normalized score (adaptive)
    pgt.CONTAINMENT_THRESH = 0.85  # tau_o, share of the judged box inside a kept one
    pgt.NORM = "minmax"  # minmax (paper) | release (score / maximum difference)
    pgt.CONTAIN = "area"  # area | score | literal: who may remove whom
    pgt.MAX_PER_CLASS = 0  # 0: no limit; top1 and topk have their own
    pgt.TOPK = 2  # boxes of a class (topk)
    pgt.THRESHOLD = 0.5  # least raw score (threshold)
    pgt.SOS_THRESH = 0.2  # least raw score beside the best box (sos)
    pgt.W2N_THRESH = 0.7  # least raw score beside the best box (w2n)
    pgt.W2N_NMS = 0.5  # IoU (w2n)
    pgt.FUSE = ""  # several detectors: "" (one list after the other) | nms | wbf
    pgt.FUSE_IOU = 0.5  # above it boxes suppress each other (nms) or are averaged (wbf)
    pgt.FUSE_WEIGHTS = ()  # factor of each detector's scores; (): 1

    masks = cfg.WEAKSAM.INSTANCE_MASKS = CN()  # SAM prompted with boxes: WeakSAM, Sec. 3.5
    # SAM's mask for prompts without ambiguity | of three: highest predicted IoU | tight box nearest
    masks.MULTIMASK = "single"  # single | best_of_3 | best_box
    masks.BOX = "pgt"  # pgt: an annotation keeps its box | mask: the tight box of its mask
    masks.CLIP = False  # masks end at their boxes
    masks.REUSE_STORED = False  # take the masks of a proposal store where it has the box

    teacher = cfg.WEAKSAM.EMA_TEACHER = CN()  # extras.md, Sec. 4; of the retraining stage
    teacher.DECAY = 0.0  # of the averaged weights; 0: no teacher (0.9996 is usual)
    teacher.START = 0  # iteration; before it the teacher is the student
    teacher.LOSS_WEIGHT = 0.0  # of its targets, in [0, 1]; 0: it is evaluated only
    teacher.SCORE_THRESH = 0.7  # least score of a target

    cfg.PIPELINE = CN()
    cfg.PIPELINE.CAMS_CONFIG = ""  # YAMLs of the trained stages, relative to the pipeline's
    cfg.PIPELINE.WSOD_CONFIG = ""
    cfg.PIPELINE.RETRAIN_CONFIG = ""
    cfg.PIPELINE.MASKS_CONFIG = ""  # a detector with masks, on pseudo masks; "": no such stage
    cfg.PIPELINE.SEGMENTER_CONFIG = ""  # a segmenter; the pipeline then leads there
    cfg.PIPELINE.BASELINE_CAMS_CONFIG = ""  # another classifier, to compare its maps and labels
    cfg.PIPELINE.SEGMENTER_LABELS = ""  # which of LABELS it learns from; "": the last
    cfg.PIPELINE.LABELS = ("CAM", "SEPL")  # label sources in order; CRF: CAM through the dense CRF
    cfg.PIPELINE.STAGES = ("cams", "prompts", "proposals", "wsod", "pseudo_gt", "retrain", "masks")
    cfg.PIPELINE.ROUNDS = 1  # of self-training: the retrained detector labels, a new one learns
    cfg.PIPELINE.SELECTIVE_SEARCH = True  # the baseline's boxes and recall as well
    cfg.PIPELINE.ABLATIONS = False  # retrain without RoI drop as well
    cfg.PIPELINE.SUPERVISED_TWIN = False  # the retrained detector on true boxes as well
    cfg.PIPELINE.REPORT_IMAGES = 12


def _add_maps_and_prompts(weaksam: Any) -> None:
    weaksam.CAMS = CN()
    weaksam.CAMS.SCALES = (1.0, 0.8, 1.2)  # of the image, each with its mirror image if FLIP
    weaksam.CAMS.FLIP = True
    # View size: nearest multiple of 16 | scaled as it is (released code; the patch embedding drops
    # up to 15 pixels) | next multiple of 16 (CLIP-ES).
    weaksam.CAMS.RESIZE = "round16"  # round16 | floor16 | ceil16
    weaksam.CAMS.CROSS_BLOCKS = (5, 12)  # 1-based, inclusive
    weaksam.CAMS.SAVE_CROSS = True  # cross-attention maps, by far the largest part of the artifact
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
        source.CLUSTER_TRUNCATE = False  # centers are cut to whole pixels (as released code does)
        source.MAX_POINTS = 20000  # before clustering
        source.SAVE_PEAKS = True  # store the peaks of each cluster (peaks.npy)
    prompts.GRID = CN()
    prompts.GRID.POINTS_PER_SIDE = 32


def _add_proposals(weaksam: Any) -> None:
    sam = weaksam.SAM = CN()
    sam.BACKEND = "SegmentAnything"  # registered SAM_BACKEND
    sam.ARCH = "vit_h"  # vit_h | vit_l | vit_b | vit_t (MobileSAM); of SegmentAnything
    sam.WEIGHTS = ""  # file | URL; "": the published file of ARCH | folder (transformers layout)
    sam.INPUT_SIZE = 1024  # pixels, longest side
    sam.POINTS_PER_BATCH = 64  # prompts decoded in one call (does not change a result)
    sam.DTYPE = "float32"  # float32 | bfloat16 | float16 (CUDA): autocast of the image encoder
    sam.CHANNELS_LAST = True  # memory format of the image encoder; equal up to rounding
    sam.COMPILE = False  # torch.compile of the image encoder; equal up to rounding

    proposals = weaksam.PROPOSALS = CN()
    proposals.METHOD = "SAM"  # SAM | SelectiveSearch | EdgeBoxes
    proposals.BOXES_AT = "full"  # resolution of the masks that boxes are read from: full | low
    proposals.MAX_PER_IMAGE = 2000  # 0: no limit
    proposals.DEDUPLICATE = 0.0625  # pixels; equal after rounding to this: one is dropped
    proposals.NMS_THRESH = 1.0  # across sources, unscored, in the order of merging; 1: off
    proposals.SAVE_MASKS = False  # store each box's mask (COCO run lengths; METHOD "SAM")
    proposals.EDGE_BOXES_MODEL = ""  # file of structured edges (OpenCV YAML), for EdgeBoxes
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

    ray = weaksam.RAY = CN()  # tasks of --ray, one for each part; changes no result
    ray.NUM_GPUS = -1.0  # of a task; -1: one if MODEL.DEVICE is a GPU here, else none
    ray.NUM_CPUS = 1.0
    ray.MAX_RETRIES = 3  # of a task whose worker died


def _add_training(cfg: Any) -> None:
    cfg.DATASETS.REGISTER = ()  # modules to import, which register data sets
    cfg.DATASETS.TAGGED = ()  # (name, image folder, tags file) triples
    cfg.DATASETS.VOC = ()  # (name, root, split, year, classes): registers name_weak, name_eval
    cfg.DATASETS.PSEUDO_GT_TRAIN = ()  # pseudo_gt.json for each name in TRAIN
    cfg.DATASETS.PSEUDO_LABELS_TRAIN = ()  # folder of label images for each name in TRAIN
    cfg.DATASETS.BOXES_TRAIN = ()  # annotated sets: WSOD with a few fully labelled images
    cfg.DATALOADER.BOXES_FRACTION = 0.0  # share of them in a batch, at least one; 0.25 is usual
    cfg.INPUT.MAPPER_NAME = ""  # registered DATASET_MAPPER; "": detectron2's own
    _add_classification(cfg.INPUT)
    # SemSegMapper: INPUT.CROP.TYPE may also be "center", and
    cfg.INPUT.COLOR_AUG_SSD = False  # brightness, contrast, saturation and hue (needs OpenCV)
    cfg.SOLVER.OPTIMIZER = "SGD"  # SGD | Adam | AdamW
    cfg.SOLVER.ACCUMULATION_STEPS = 1  # batches for each optimizer step
    cfg.SOLVER.LR_MULTIPLIERS = ()  # (regular expression of parameter names, factor) pairs
    # A resumed run equals an uninterrupted one bit for bit, whatever the number of workers: each
    # sample draws from a seed hashed from SEED and its position (no ASPECT_RATIO_GROUPING).
    cfg.SOLVER.EXACT_RESUME = False
    cfg.SOLVER.DETERMINISTIC = False  # only deterministic algorithms; the others are an error
    cfg.SOLVER.AMP.DTYPE = "float16"  # float16 (CUDA) | bfloat16
    cfg.TEST.VOC07_METRIC = "11point"  # 11point | area
    cfg.TEST.VOC12_METRIC = "area"
    cfg.TEST.RECALL_MATCH = "one2one"  # one2one | any
    cfg.TEST.RECALL_IOUS = (0.5, 0.75, 0.9)
    cfg.TEST.MASK_EVAL = "coco"  # AP at MASK_IOUS: coco (101 points) | voc (area, peers)
    cfg.TEST.MASK_IOUS = (0.25, 0.5, 0.7, 0.75)
    # Views of semantic segmentation: probabilities are averaged over scales and mirror images.
    cfg.TEST.SEM_SEG_SCALES = (1.0,)
    cfg.TEST.SEM_SEG_FLIP = False
    cfg.TEST.BOOTSTRAP = 0  # resamples over images for confidence intervals; 0: none
    cfg.TEST.COCO_EVAL = "pycocotools"  # pycocotools | faster (extra "fasteval"), same figures
    cfg.TEST.EXCLUDE_IDS = ""  # file of image ids that no figure counts, one in a line


def _add_classification(cfg_input: Any) -> None:
    views = cfg_input.CLASSIFICATION = CN()  # ClassificationMapper: timm's training transform
    views.SIZE = 224  # pixels, height and width of a view
    views.CROP_SCALE = (0.08, 1.0)  # share of the image's area that a random crop covers
    views.AUTO_AUGMENT = "rand-m9-mstd0.5-inc1"  # timm's RandAugment; "": none
    views.COLOR_JITTER = 0.4  # timm: only without AUTO_AUGMENT
    views.ERASE_PROB = 0.25  # random erasing with pixel noise
