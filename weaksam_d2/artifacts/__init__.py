"""File formats and their in-memory records; needs only the standard library and numpy."""

from weaksam_d2.artifacts.cams import CamMaps, CamStore, CamStoreWriter
from weaksam_d2.artifacts.categories import CategoryMap
from weaksam_d2.artifacts.coco_json import (
    PseudoGroundTruth,
    read_detections,
    read_pseudo_gt,
    write_detections,
    write_pseudo_gt,
)
from weaksam_d2.artifacts.io import (
    ArtifactError,
    ArtifactMismatchError,
    ImageId,
    atomic_folder,
    atomic_write,
    move_folder,
    read_json,
    sha256_file,
    sha256_json,
    write_json,
)
from weaksam_d2.artifacts.manifest import (
    RunManifest,
    describe_dataset,
    describe_input,
    list_outputs,
)
from weaksam_d2.artifacts.prompt_peaks import PEAK_DTYPE, make_peaks
from weaksam_d2.artifacts.prompt_set import Prompts, PromptSet, PromptSetWriter
from weaksam_d2.artifacts.proposal_store import Proposals, ProposalStore, ProposalStoreWriter
from weaksam_d2.artifacts.shards import (
    check_identity,
    merge_cam_stores,
    merge_manifests,
    merge_prompt_sets,
    merge_proposal_stores,
    part_path,
    part_ranges,
    parts_root,
    pending_parts,
    shard_parts,
)

__all__ = [
    "PEAK_DTYPE",
    "ArtifactError",
    "ArtifactMismatchError",
    "CamMaps",
    "CamStore",
    "CamStoreWriter",
    "CategoryMap",
    "ImageId",
    "PromptSet",
    "PromptSetWriter",
    "Prompts",
    "ProposalStore",
    "ProposalStoreWriter",
    "Proposals",
    "PseudoGroundTruth",
    "RunManifest",
    "atomic_folder",
    "atomic_write",
    "check_identity",
    "describe_dataset",
    "describe_input",
    "list_outputs",
    "make_peaks",
    "merge_cam_stores",
    "merge_manifests",
    "merge_prompt_sets",
    "merge_proposal_stores",
    "move_folder",
    "part_path",
    "part_ranges",
    "parts_root",
    "pending_parts",
    "read_detections",
    "read_json",
    "read_pseudo_gt",
    "sha256_file",
    "sha256_json",
    "shard_parts",
    "write_detections",
    "write_json",
    "write_pseudo_gt",
]
