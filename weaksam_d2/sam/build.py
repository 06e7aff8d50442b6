"""The registry of SAM backends, and how one is built from a config."""

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

from weaksam_d2.sam.backend import SamBackend

__all__ = ["SAM_BACKEND_REGISTRY", "build_sam_backend", "sam_weights"]

SAM_BACKEND_REGISTRY = Registry("SAM_BACKEND")
SAM_BACKEND_REGISTRY.__doc__ = """
Registry of SAM backends, chosen by WEAKSAM.SAM.BACKEND. A registered class is called as
``cls(cfg)`` and returns a `SamBackend`.
"""


def sam_weights(cfg: CfgNode) -> Path | None:
    """The checkpoint of the backend that a config names; None if it has none (`FakeSam`)."""
    find = getattr(SAM_BACKEND_REGISTRY.get(cfg.WEAKSAM.SAM.BACKEND), "weights_file", None)
    return None if find is None else Path(find(cfg))


def build_sam_backend(cfg: CfgNode) -> SamBackend:
    """Build the backend named by ``WEAKSAM.SAM.BACKEND``, with its weights, on MODEL.DEVICE.

    Raises:
        KeyError: no backend of that name is registered.
        WeightsError: the checkpoint cannot be had or does not fit.
        ImportError: the backend's package is missing; says how to install it.
    """
    backend: SamBackend = SAM_BACKEND_REGISTRY.get(cfg.WEAKSAM.SAM.BACKEND)(cfg)
    return backend
