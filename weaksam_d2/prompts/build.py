"""What a prompt source is, and the sources that a config names."""

from collections.abc import Mapping
from typing import Any, Protocol

from detectron2.utils.registry import Registry

from weaksam_d2.artifacts import CamMaps, Prompts

__all__ = ["PROMPT_SOURCE_REGISTRY", "PromptSource", "build_prompt_sources"]

PROMPT_SOURCE_REGISTRY = Registry("PROMPT_SOURCE")
PROMPT_SOURCE_REGISTRY.__doc__ = """Sources of prompts for one image.

Called as ``obj(cfg)``; the result is a :class:`PromptSource`. A source reads the node of its
name and nothing else.
"""


class PromptSource(Protocol):
    """Gives the prompts of one image, from its record and its activation maps."""

    name: str  # as registered
    node: str  # of WEAKSAM.PROMPTS and of WEAKSAM.PROPOSALS
    stored: bool  # False: the prompts follow from a parameter and are not written

    def __call__(self, record: Mapping[str, Any], cams: CamMaps | None) -> Prompts:
        """Prompts with ``source_names == (name,)``, points in pixels of the original image."""


def build_prompt_sources(cfg: Any) -> list[PromptSource]:
    """The sources of ``WEAKSAM.PROMPTS.SOURCES``, in that order.

    Raises:
        ValueError: no source, one named twice, or one that is not registered.
    """
    names = list(cfg.WEAKSAM.PROMPTS.SOURCES)
    known = sorted(name for name, _ in PROMPT_SOURCE_REGISTRY)
    unknown = sorted(set(names) - set(known))
    if not names or unknown or len(set(names)) < len(names):
        raise ValueError(
            f"WEAKSAM.PROMPTS.SOURCES is {tuple(names)}, expected different names among "
            f"{', '.join(known)}" + (f"; not registered: {', '.join(unknown)}" if unknown else "")
        )
    return [PROMPT_SOURCE_REGISTRY.get(name)(cfg) for name in names]
