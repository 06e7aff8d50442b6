"""Config keys of SEPL (wsss.md, Sec. 5)."""

from typing import Any

from detectron2.config import CfgNode as CN

__all__ = ["add_sepl_config"]


def add_sepl_config(cfg: Any) -> None:
    """Add the node ``SEPL`` to a config, in place; the defaults are the paper's rule."""
    node = cfg.SEPL = CN()
    # threshold: the paper's two shares | tree: on each path of masks inside masks the best one
    node.SELECT = "threshold"
    # What the labels that go in are: crf (WEAKSAM.LABELS.CRF was on) | cam. Labels of ours say how
    # they were made, and others are refused; folders of other origin are taken as they are.
    node.START = "crf"
    node.T1 = 0.5  # share of the mask that lies on its class; kept above it
    node.T2 = 0.85  # share of the class that lies in the mask; kept above it
    node.STRICT = True  # False: kept at T2 as well (released code)
    # best: each mask belongs to the class it shares most pixels with | greedy: to the lowest class
    # that passes (released code)
    node.ASSIGN = "best"
    # What stays of the seed. class: all of a class that keeps no mask | uncovered_pixels: of every
    # class, what lies under no mask that is still free (released code)
    node.FALLBACK = "class"
    # Which class lies on top. area: the smaller region | class_id: the higher label (released code)
    node.CONFLICT = "area"
    node.IGNORE = "keep"  # pixels of label 255: keep | background (released code)
    node.MAX_MASK_FRACTION = 1.0  # of the image; larger masks are left out (1: off)
    node.MIN_CLASS_PIXELS = 0  # smaller classes take no mask (0: off)
