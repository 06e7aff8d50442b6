"""Test-time augmentation for whichever detector is evaluated."""

from typing import Any

from detectron2.modeling import GeneralizedRCNN, GeneralizedRCNNWithTTA
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from weaksam_d2.wsod import WSODRCNN, WSODRCNNWithTTA

__all__ = ["with_test_views"]


def with_test_views(cfg: Any, model: nn.Module) -> nn.Module:
    """The model itself, or with ``TEST.AUG.ENABLED`` the model seen through several views.

    A weakly supervised detector averages by proposal (:class:`WSODRCNNWithTTA`); a model with a
    method ``with_test_views(cfg)`` does as it says; every other GeneralizedRCNN takes detectron2's
    own augmentation, which joins the boxes of the views.

    Raises:
        ValueError: a model that has no test-time augmentation (a classifier).
    """
    if not cfg.TEST.AUG.ENABLED:
        return model
    plain = model.module if isinstance(model, DistributedDataParallel) else model
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
