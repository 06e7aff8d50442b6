"""From image tags to object detectors: WeakSAM as a plug-in collection for detectron2.

Importing the package loads nothing, so that ``weaksam_d2.artifacts`` works without torch and
detectron2. The names below are resolved on first use.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

__all__ = ["__version__", "add_weaksam_config", "model_zoo"]

_PARTS_WITH_REGISTERED_CLASSES = (
    "backbones",  # registers the VGG and timm backbones
    "data",  # registers the dataset mappers
    "cams",  # registers the image classifier and its networks
    "wsod",  # registers the weakly supervised detector, its ROI heads, miners and losses
    "retrain",  # registers the RoI-drop heads
    "segmentation",  # registers the segmentation heads
)
_USER_PROVIDED = ("torch", "torchvision", "detectron2")


def _register() -> None:
    """Import the parts whose classes detectron2 finds by name; ImportError says what is missing."""
    try:
        for part in _PARTS_WITH_REGISTERED_CLASSES:
            importlib.import_module(f"weaksam_d2.{part}")
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _USER_PROVIDED:
            raise
        raise ImportError(
            f"weaksam_d2 needs {missing!r} to register its classes, and it is not installed "
            f"({error}). `make setup` in a clone of weaksam_d2 makes an environment with torch, "
            "torchvision and detectron2; INSTALL.md says how to use one of your own. "
            "weaksam_d2.artifacts works without them."
        ) from error


def __getattr__(name: str) -> Any:
    """Resolve the public names; ``add_weaksam_config`` registers every class on the way."""
    if name == "model_zoo":
        return importlib.import_module("weaksam_d2.model_zoo")
    if name == "add_weaksam_config":
        _register()
        return importlib.import_module("weaksam_d2.config").add_weaksam_config
    raise AttributeError(f"module 'weaksam_d2' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
