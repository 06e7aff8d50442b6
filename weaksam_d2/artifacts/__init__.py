"""File formats and their in-memory records; needs the standard library, numpy and Pillow."""

from weaksam_d2.artifacts.cams import CamMaps, CamStore, CamStoreWriter
from weaksam_d2.artifacts.categories import CategoryMap
from weaksam_d2.artifacts.coco_json import (
    PseudoGroundTruth,
    read_detections,
    read_pseudo_gt,
    write_detections,
    write_pseudo_gt,
)
from weaksam_d2.artifacts.coco_parts import (
    merge_detection_folders,
    merge_pseudo_gt_folders,
    write_detection_folder,
    write_pseudo_gt_folder,
)
from weaksam_d2.artifacts.detections_file import DetectionsFile
from weaksam_d2.artifacts.foreign_errors import ForeignFileError, UnsafePickleError
from weaksam_d2.artifacts.foreign_labels import ForeignLabels, open_label_folder
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
from weaksam_d2.artifacts.label_png import read_label_png, write_label_png
from weaksam_d2.artifacts.label_space import CHANNEL_ENCODINGS, MASK_ENCODINGS, LabelSpace
from weaksam_d2.artifacts.manifest import (
    RunManifest,
    describe_dataset,
    describe_input,
    list_outputs,
)
from weaksam_d2.artifacts.plain_pickles import load_plain_npy, load_plain_pickle
from weaksam_d2.artifacts.prompt_peaks import PEAK_DTYPE, make_peaks
from weaksam_d2.artifacts.prompt_set import Prompts, PromptSet, PromptSetWriter
from weaksam_d2.artifacts.proposal_store import Proposals, ProposalStore, ProposalStoreWriter
from weaksam_d2.artifacts.pseudo_gt_writer import PseudoGTWriter
from weaksam_d2.artifacts.sem_seg_labels import (
    SemSegLabels,
    count_pixels,
    label_file_name,
)
from weaksam_d2.artifacts.sem_seg_parts import merge_sem_seg_labels
from weaksam_d2.artifacts.sem_seg_writer import SemSegLabelsWriter
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
    "CHANNEL_ENCODINGS",
    "MASK_ENCODINGS",
    "PEAK_DTYPE",
    "ArtifactError",
    "ArtifactMismatchError",
    "CamMaps",
    "CamStore",
    "CamStoreWriter",
    "CategoryMap",
    "DetectionsFile",
    "ForeignFileError",
    "ForeignLabels",
    "ImageId",
    "LabelSpace",
    "PromptSet",
    "PromptSetWriter",
    "Prompts",
    "ProposalStore",
    "ProposalStoreWriter",
    "Proposals",
    "PseudoGTWriter",
    "PseudoGroundTruth",
    "RunManifest",
    "SemSegLabels",
    "SemSegLabelsWriter",
    "UnsafePickleError",
    "atomic_folder",
    "atomic_write",
    "check_identity",
    "count_pixels",
    "describe_dataset",
    "describe_input",
    "label_file_name",
    "list_outputs",
    "load_plain_npy",
    "load_plain_pickle",
    "make_peaks",
    "merge_cam_stores",
    "merge_detection_folders",
    "merge_manifests",
    "merge_prompt_sets",
    "merge_proposal_stores",
    "merge_pseudo_gt_folders",
    "merge_sem_seg_labels",
    "move_folder",
    "open_label_folder",
    "part_path",
    "part_ranges",
    "parts_root",
    "pending_parts",
    "read_detections",
    "read_json",
    "read_label_png",
    "read_pseudo_gt",
    "sha256_file",
    "sha256_json",
    "shard_parts",
    "write_detection_folder",
    "write_detections",
    "write_json",
    "write_label_png",
    "write_pseudo_gt",
    "write_pseudo_gt_folder",
]
