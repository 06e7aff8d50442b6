"""Prompts and SAM, or a classic method, to proposal boxes (WeakSAM, Sec. 3.2)."""

from .build import (
    PROPOSAL_METHOD_REGISTRY,
    ProposalMethod,
    build_proposal_method,
    proposal_method,
)
from .edge_boxes import EdgeBoxes, edge_boxes_model  # registers the proposal method EdgeBoxes
from .filter import Candidates, FilterSettings, clean_boxes, filter_masks, merge_sources
from .generate import ProposalsSummary, generate_proposals
from .sam import SAM  # registers the proposal method SAM
from .selective_search import SelectiveSearch  # registers the proposal method SelectiveSearch

__all__ = [
    "PROPOSAL_METHOD_REGISTRY",
    "SAM",
    "Candidates",
    "EdgeBoxes",
    "FilterSettings",
    "ProposalMethod",
    "ProposalsSummary",
    "SelectiveSearch",
    "build_proposal_method",
    "clean_boxes",
    "edge_boxes_model",
    "filter_masks",
    "generate_proposals",
    "merge_sources",
    "proposal_method",
]
