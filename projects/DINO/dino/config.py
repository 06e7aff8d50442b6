"""Config keys of DINO (extras.md, Sec. 1)."""

from typing import Any

from detectron2.config import CfgNode as CN

__all__ = ["add_dino_config"]


def add_dino_config(cfg: Any) -> None:
    """Add ``MODEL.DINO`` to a detectron2 config, in place; the number of classes is ROI_HEADS'."""
    dino = cfg.MODEL.DINO = CN()
    dino.WEIGHTS = ""  # a published checkpoint : box-supervised; then MODEL.WEIGHTS ""
    dino.IN_FEATURES = ("res3", "res4", "res5")  # maps of the backbone, finest first
    dino.NUM_LEVELS = 4  # of the transformer; further ones are convolutions of stride 2
    dino.HIDDEN_DIM = 256
    dino.FFN_DIM = 2048
    dino.NUM_HEADS = 8
    dino.NUM_POINTS = 4  # sampled for each head and level
    dino.ENCODER_LAYERS = 6
    dino.DECODER_LAYERS = 6
    dino.DROPOUT = 0.0
    dino.NUM_QUERIES = 900
    dino.POS_TEMPERATURE = 20.0  # of the pixels' sine embedding; detrex's R50: 10000
    dino.POS_OFFSET = 0.0  # of a pixel's center, in pixels; detrex's R50: -0.5
    dino.DN_NUMBER = 100  # denoising pairs; 0: no denoising
    dino.LABEL_NOISE = 0.5
    dino.BOX_NOISE = 1.0
    dino.CLS_WEIGHT = 1.0
    dino.L1_WEIGHT = 5.0
    dino.GIOU_WEIGHT = 2.0
    dino.COST_CLS = 2.0
    dino.COST_L1 = 5.0
    dino.COST_GIOU = 2.0
    dino.FOCAL_ALPHA = 0.25
    dino.FOCAL_GAMMA = 2.0
    dino.MIN_GT_SIZE = 0.0  # of the training view; smaller objects are left out (release: 32)
    cfg.INPUT.DETR_CROP = False  # DetrMapper: every other training view is a random crop
    dino.TTA_NMS_THRESH = 0.6  # joins the views of TEST.AUG; a single view is not suppressed
