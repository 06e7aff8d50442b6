"""Proposal files of other programs, in and out; and stores merged, cut down and counted.

No pickle is ever run: see `artifacts.load_plain_pickle`. The formats are listed in `formats`.
"""

from .formats import READERS, WRITERS, export_proposals, get_reader
from .importing import ImportSummary, import_proposals
from .statistics import check_masks, proposal_statistics
from .views import (
    DeduplicatedProposals,
    JoinedProposals,
    MergedProposals,
    ProposalView,
    SubsetOfProposals,
    write_store,
)

__all__ = [
    "READERS",
    "WRITERS",
    "DeduplicatedProposals",
    "ImportSummary",
    "JoinedProposals",
    "MergedProposals",
    "ProposalView",
    "SubsetOfProposals",
    "check_masks",
    "export_proposals",
    "get_reader",
    "import_proposals",
    "proposal_statistics",
    "write_store",
]
