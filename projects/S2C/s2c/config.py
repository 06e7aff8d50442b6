"""Config keys of S2C (wsss.md, Sec. 6 and 9b)."""

from typing import Any

from detectron2.config import CfgNode as CN

__all__ = ["add_s2c_config"]


def add_s2c_config(cfg: Any) -> None:
    """Add ``MODEL.S2C`` and ``INPUT.S2C`` to a config, in place.

    Classes are ``MODEL.ROI_HEADS.NUM_CLASSES`` of them, SAM is ``WEAKSAM.SAM``. Defaults are the
    paper's; ``configs/reference/`` restores what the released code does.
    """
    node = cfg.MODEL.S2C = CN()
    # Store of SAM's masks ("everything") of every training image; needed unless SSC has weight 0.
    node.MASKS = ""
    node.IN_FEATURE = "bn7"  # output of the backbone, stride 16 at most
    node.FEATURE_DIM = 256  # channels of the feature F
    node.LOSS_WEIGHTS = (1.0, 1.0, 1.0)  # of L_CLS, L_SSC, L_CPM; 0: the part does not run

    node.SE_PRIORITY = "area"  # who is on top where segments overlap: area (smallest) | iou
    node.SSC_LEVEL = "feature"  # what is contrasted: feature (F) | logit (A)
    node.SSC_SCALE = 2.0  # 1 / T of the paper (T = 0.5); released code: 1.0
    node.SSC_ABSENT_LOGITS = False  # True: ids without a pixel and id 0 are negatives too

    node.CPM_START_EPOCH = 1  # from 0; released code: 2
    node.EPOCH_ITERS = 0  # iterations of an epoch; 0: images of DATASETS.TRAIN / images of a step
    node.SAM_EVERY = 1  # iterations from one with CPM to the next
    node.CPM_SCALES = (0.5, 1.0, 1.5, 2.0)  # of the crop
    node.PEAKS = "multi"  # multi | single (the global maximum)
    node.PEAK_RULE = "lmf"  # lmf | skimage (peak_local_max as the released code calls it)
    node.PEAK_RADIUS = 20  # pixels, d: a peak is the maximum of its (2d + 1)^2 window
    node.TAU = 0.5  # least activation of a peak, least confidence of a class (Eq. 11)
    node.CPM_PROMPT = "points"  # points | box (around the activation) | mask (the map itself)
    node.SAM_MASK_INDEX = 2  # of SAM's three masks; 2: the whole object
    node.CPM_CONF = "sam_cam"  # confidence of a mask: sam_cam (product) | sam | none (1)
    node.SAM_CONF = "logit"  # SAM's part of it: logit | sigmoid
    node.CPM_BACKGROUND = True  # the loss has a channel for background
    node.CPM_BACKGROUND_TAU = True  # background also where the best confidence is below TAU

    views = cfg.INPUT.S2C = CN()  # S2CMapper, in training
    views.CROP_SIZE = 256  # pixels, height and width
    views.LONGEST_SIDE = (256, 512)  # pixels, smallest and largest, before the crop
    views.COLOR_JITTER = (0.4, 0.4, 0.4, 0.1)  # brightness, contrast, saturation, hue
    views.JITTER_PROB = 0.8
    views.GRAY_PROB = 0.02
