"""What a proposal method is, and the one that a config names."""

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from detectron2.utils.registry import Registry

from weaksam_d2.artifacts import Prompts, Proposals

__all__ = [
    "PROPOSAL_METHOD_REGISTRY",
    "ProposalMethod",
    "build_proposal_method",
    "proposal_method",
]

PROPOSAL_METHOD_REGISTRY = Registry("PROPOSAL_METHOD")
PROPOSAL_METHOD_REGISTRY.__doc__ = """Methods that propose boxes for one image.

Called as ``obj(cfg)``; the result is a :class:`ProposalMethod`.
"""


class ProposalMethod(Protocol):
    """Proposes boxes in one image."""

    source_names: tuple[str, ...]  # what ``Proposals.sources`` are rows of

    def __call__(
        self, image: np.ndarray, prompts: Prompts | None, grid: Mapping[str, Any] | None
    ) -> Proposals:
        """Boxes of an RGB uint8 image (H, W, 3), in the order of rank.

        prompts and grid: the stored prompts of the image and the dense grid's parameters
        (``{"points_per_side": 32}`` or None: no grid); prompts None: there is no prompt set. A
        method that needs no prompts ignores both.
        """


def proposal_method(cfg: Any) -> Any:
    """The registered method of ``WEAKSAM.PROPOSALS.METHOD``; ValueError names the allowed ones."""
    name = cfg.WEAKSAM.PROPOSALS.METHOD
    known = sorted(key for key, _ in PROPOSAL_METHOD_REGISTRY)
    if name not in known:
        raise ValueError(f"WEAKSAM.PROPOSALS.METHOD is {name!r}, allowed: {', '.join(known)}")
    return PROPOSAL_METHOD_REGISTRY.get(name)


def build_proposal_method(cfg: Any) -> ProposalMethod:
    """Build the method of ``WEAKSAM.PROPOSALS.METHOD``; ValueError names the allowed ones."""
    method: ProposalMethod = proposal_method(cfg)(cfg)
    return method
