"""Point prompts: a dense grid and the peaks of activation maps (WeakSAM, Sec. 3.1, Alg. 1)."""

from .build import PROMPT_SOURCE_REGISTRY, PromptSource, build_prompt_sources
from .generate import PromptsSummary, generate_prompts
from .grid import Grid  # registers the prompt source Grid
from .peaks import (  # registers the prompt sources CoarseCAMPeaks, FineCAMPeaks, ...
    CoarseCAMPeaks,
    CrossAttentionPeaks,
    FineCAMPeaks,
)

__all__ = [
    "PROMPT_SOURCE_REGISTRY",
    "CoarseCAMPeaks",
    "CrossAttentionPeaks",
    "FineCAMPeaks",
    "Grid",
    "PromptSource",
    "PromptsSummary",
    "build_prompt_sources",
    "generate_prompts",
]
