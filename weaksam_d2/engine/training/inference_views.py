"""Test-time augmentation for whichever model is evaluated."""

from typing import Any

from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    GeneralizedRCNNWithTTA,
    SemanticSegmentor,
)
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from weaksam_d2.data import reads_label_images
from weaksam_d2.segmentation import SemSegWithTTA, asks_for_views
from weaksam_d2.wsod import WSODRCNN, WSODRCNNWithTTA

__all__ = ["predicts_labels", "sem_seg_output", "with_test_views"]


def predicts_labels(cfg: Any) -> bool:
    """Whether the model of a config labels pixels and finds no objects."""
    kind = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    stock = isinstance(kind, type) and issubclass(kind, SemanticSegmentor)
    return stock or reads_label_images(cfg)


def sem_seg_output(model: nn.Module) -> str:
    """What the scores of ``sem_seg`` are, "logits" or "scores"; "": the model gives none.

    A model says it by its attribute ``sem_seg_output``.
    """
    stock = "logits" if isinstance(model, SemanticSegmentor) else ""
    return str(getattr(model, "sem_seg_output", stock))


def with_test_views(cfg: Any, model: nn.Module) -> nn.Module:
    """The model itself, or with ``TEST.AUG.ENABLED`` the model seen through several views.

    A weakly supervised detector averages by proposal (:class:`WSODRCNNWithTTA`); a model with a
    method ``with_test_views(cfg)`` does as it says; every other GeneralizedRCNN takes detectron2's
    own augmentation, which joins the boxes of the views. Semantic segmentation has its own keys,
    ``TEST.SEM_SEG_SCALES`` and ``TEST.SEM_SEG_FLIP``: :class:`SemSegWithTTA`.

    Raises:
        ValueError: a model that has no test-time augmentation (a classifier).
    """
    plain = model.module if isinstance(model, DistributedDataParallel) else model
    if asks_for_views(cfg):
        return _sem_seg_views(cfg, plain)
    if not cfg.TEST.AUG.ENABLED:
        return model
    if isinstance(plain, WSODRCNN):
        return WSODRCNNWithTTA(cfg, plain)
    own = getattr(plain, "with_test_views", None)
    if own is not None:
        views: nn.Module = own(cfg)
        views.training = plain.training
        return views
    if not isinstance(plain, GeneralizedRCNN):
        raise ValueError(
            f"TEST.AUG.ENABLED is True, and a {type(plain).__name__} has no test-time "
            "augmentation; set it to False (in a pipeline set it for one stage: "
            "--set wsod.TEST.AUG.ENABLED True)"
        )
    views = GeneralizedRCNNWithTTA(cfg, plain)
    views.training = plain.training  # evaluation puts back the mode that it found
    return views


def _sem_seg_views(cfg: Any, plain: nn.Module) -> nn.Module:
    """A segmenter in several views."""
    output = sem_seg_output(plain)
    if not output:
        raise ValueError(
            f"TEST.SEM_SEG_SCALES {tuple(cfg.TEST.SEM_SEG_SCALES)} and TEST.SEM_SEG_FLIP "
            f"{cfg.TEST.SEM_SEG_FLIP} are for semantic segmentation, which a "
            f"{type(plain).__name__} does not do; set them to (1.0,) and False"
        )
    views = SemSegWithTTA(
        plain,
        scales=cfg.TEST.SEM_SEG_SCALES,
        flip=cfg.TEST.SEM_SEG_FLIP,
        logits=output == "logits",
    )
    views.training = plain.training
    return views
