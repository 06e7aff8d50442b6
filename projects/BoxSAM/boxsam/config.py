"""Config keys of BoxSAM (wsss.md, Sec. 7 and 9b)."""

from typing import Any

from detectron2.config import CfgNode as CN

__all__ = ["add_boxsam_config"]


def add_boxsam_config(cfg: Any) -> None:
    """Add ``BOXSAM`` to a config, in place; SAM itself is ``WEAKSAM.SAM``."""
    node = cfg.BOXSAM = CN()
    tagger = node.TAGGER = CN()
    # zero_shot: CLIP asked for each class | head: a trained CLIPTagger | given: the image's tags
    tagger.MODE = "zero_shot"
    tagger.SELECTION = "per_image"  # per_image | per_class_topn (from stored scores of the set)
    tagger.TOP_N = 5  # tags of an image (COCO: 10) | images of a class (per_class_topn)
    tagger.REL_THRESHOLD = 0.1  # per_image: least share of the best class's probability
    tagger.TEMPLATES = ("a photo of a {}.",)  # their text features are averaged
    # file of OpenAI's CLIP | folder in the format of transformers | clip_vit_b16; "": random
    # weights of its size (CLIPTagger alone)
    tagger.CLIP = "clip_vit_b16"
    tagger.WEIGHTS = ""  # checkpoint of META_ARCH CLIPTagger (head)

    detector = node.DETECTOR = CN()
    # Model id of the hub, or a folder with its files. -base was trained on COCO's boxes.
    detector.MODEL = "IDEA-Research/grounding-dino-tiny"
    detector.BOXES = "detected"  # detected | given: true boxes, for analysis only
    detector.BOX_THRESHOLD = 0.3  # a box scores above this
    detector.NMS = 0.7  # IoU, within a class
    detector.CROSS_CLASS_NMS = 0.9  # IoU, between classes; above 1: off
    detector.MAX_BOXES = 100  # of an image

    node.SEGMENTER = CN()
    # Best overlap of SAM's three masks | union of automatic masks in the box (from --masks) |
    # highest predicted IoU
    node.SEGMENTER.MODE = "multimask"  # multimask | everything | predicted_iou
    node.SEGMENTER.MIN_OVERLAP = 0.3  # IoU of mask and filled box

    fuse = node.FUSE = CN()
    fuse.ORDER = "area"  # on top: the smaller region | the better score | SAM's logit x score
    fuse.IGNORE_BAND = 0  # pixels around the borders of instances that become 255; 0: off
    fuse.UNCERTAIN = 0.0  # instances that score below are 255 instead of their class; 0: off
