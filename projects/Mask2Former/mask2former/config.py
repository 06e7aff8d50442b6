"""Config keys of Mask2Former (extras.md, Sec. 2)."""

from typing import Any

from detectron2.config import CfgNode as CN

__all__ = ["add_mask2former_config"]


def add_mask2former_config(cfg: Any) -> None:
    """Add ``MODEL.MASK2FORMER``, ``MODEL.SWIN`` and ``INPUT.LSJ`` to a config, in place.

    Classes are ``MODEL.ROI_HEADS.NUM_CLASSES`` of them, in the task ``semantic``
    ``MODEL.SEM_SEG_HEAD.NUM_CLASSES``; query drop is ``MODEL.QUERY_DROP``.
    """
    node = cfg.MODEL.MASK2FORMER = CN()
    # A published checkpoint (official or transformers' names): file | URL | "". It is loaded when
    # the model is built; MODEL.WEIGHTS is a backbone or a checkpoint of our own training.
    node.WEIGHTS = ""
    node.TASK = "instance"  # instance | semantic
    node.IN_FEATURES = ("res2", "res3", "res4", "res5")  # maps of stride 4, 8, 16 and 32
    node.HIDDEN_DIM = 256  # a multiple of 32
    node.NUM_HEADS = 8
    node.ENCODER_LAYERS = 6  # of the pixel decoder, with deformable attention
    node.ENCODER_FFN_DIM = 1024
    node.DECODER_LAYERS = 9  # with masked attention
    node.DECODER_FFN_DIM = 2048
    node.NUM_QUERIES = 100
    node.CLS_WEIGHT = 2.0
    node.MASK_WEIGHT = 5.0
    node.DICE_WEIGHT = 5.0
    node.NO_OBJECT_WEIGHT = 0.1
    node.NUM_POINTS = 12544  # of each mask, where its losses are taken
    node.OVERSAMPLE_RATIO = 3.0  # points drawn for each one that is wanted
    node.IMPORTANCE_RATIO = 0.75  # share of the points that is the most uncertain of those
    node.SIZE_DIVISIBILITY = 32
    # Semantic: pixels without a label (255) count for nothing. False: they are outside every mask,
    # as in the official code.
    node.MASK_IGNORE = False

    swin = cfg.MODEL.SWIN = CN()  # build_swin_backbone; Swin-T, L is 192, (2, 2, 18, 2), 12
    swin.EMBED_DIM = 96
    swin.DEPTHS = (2, 2, 6, 2)
    swin.NUM_HEADS = (3, 6, 12, 24)
    swin.WINDOW_SIZE = 7
    swin.DROP_PATH_RATE = 0.3
    swin.FROZEN_STAGES = -1  # -1: everything learns
    swin.CHECKPOINT = False  # less memory, more time

    jitter = cfg.INPUT.LSJ = CN()  # Mask2FormerMapper: large-scale jitter
    jitter.SIZE = 1024  # pixels, side of the square that is cut out or filled up
    jitter.SCALE = (0.1, 2.0)  # of SIZE, what the image is made to fit in
