"""The registry of SAM backends, and how one is built from a config."""

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.utils.registry import Registry

from weaksam_d2.sam.backend import SamBackend
from weaksam_d2.weights import resolve_weights

__all__ = ["SAM_BACKEND_REGISTRY", "build_sam_backend", "sam_weights"]

SAM_BACKEND_REGISTRY = Registry("SAM_BACKEND")
SAM_BACKEND_REGISTRY.__doc__ = """
Registry of SAM backends, chosen by WEAKSAM.SAM.BACKEND. A registered class is called as
``cls(cfg)`` and returns a `SamBackend`.
"""


def sam_weights(cfg: CfgNode) -> Path | None:
    """The checkpoint that ``WEAKSAM.SAM.WEIGHTS`` names, for the hash in a manifest.

    None where the published file of ``ARCH`` is used: it is pinned by its own hash, and the file
    that holds it may be the download or its conversion.
    """
    source = cfg.WEAKSAM.SAM.WEIGHTS
    return resolve_weights(source) if source else None


def build_sam_backend(cfg: CfgNode) -> SamBackend:
    """Build the backend named by ``WEAKSAM.SAM.BACKEND``, with its weights, on MODEL.DEVICE.

    Raises:
        KeyError: no backend of that name is registered.
        WeightsError: the checkpoint cannot be had or does not fit.
        ImportError: the backend's package is missing; says how to install it.
    """
    backend: SamBackend = SAM_BACKEND_REGISTRY.get(cfg.WEAKSAM.SAM.BACKEND)(cfg)
    return backend
