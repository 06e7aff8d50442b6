"""Proposal files of other programs, in and out; and stores merged, cut down and counted.

No pickle is ever run: see `load_plain_pickle`. The formats are listed in `formats`.
"""

from .errors import ForeignFileError, UnsafePickleError
from .formats import READERS, WRITERS, export_proposals, get_reader
from .importing import ImportSummary, import_proposals
from .pickles import load_plain_pickle
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
    "ForeignFileError",
    "ImportSummary",
    "JoinedProposals",
    "MergedProposals",
    "ProposalView",
    "SubsetOfProposals",
    "UnsafePickleError",
    "check_masks",
    "export_proposals",
    "get_reader",
    "import_proposals",
    "load_plain_pickle",
    "proposal_statistics",
    "write_store",
]
