"""BoxSAM (Ravanbakhsh et al.): pseudo labels by CLIP, Grounding DINO and SAM, untrained."""

from .boxes import BoxSettings, ClassBoxes, class_scores, select_boxes
from .boxsam import BoxSAM, BoxSAMResult  # registers the label source BoxSAM
from .clip_tagger import CLIPTagger  # registers CLIPTagger
from .config import add_boxsam_config
from .detector import Detector, GivenBoxes, OpenVocabularyDetector, build_detector
from .fuse import FuseSettings, Instance, fuse_instances
from .grouping import group_masks_in_box
from .names import class_words, match_names
from .pairs import register_class_pairs  # registers open_images_voc_pairs
from .prompted_sam import PromptedSAM  # registers the label source PromptedSAM
from .proposal_source import (  # registers OpenVocabularyBoxes and OpenVocabularyPrompts
    OpenVocabularyBoxes,
    OpenVocabularyPrompts,
)
from .segmenter import BoxSegmenter
from .selection import select_per_class, select_per_image
from .tag_scores import TagScores
from .tagger import Tagger, build_tag_scorer, build_tagger

__all__ = [
    "BoxSAM",
    "BoxSAMResult",
    "BoxSegmenter",
    "BoxSettings",
    "CLIPTagger",
    "ClassBoxes",
    "Detector",
    "FuseSettings",
    "GivenBoxes",
    "Instance",
    "OpenVocabularyBoxes",
    "OpenVocabularyDetector",
    "OpenVocabularyPrompts",
    "PromptedSAM",
    "TagScores",
    "Tagger",
    "add_boxsam_config",
    "build_detector",
    "build_tag_scorer",
    "build_tagger",
    "class_scores",
    "class_words",
    "fuse_instances",
    "group_masks_in_box",
    "match_names",
    "register_class_pairs",
    "select_boxes",
    "select_per_class",
    "select_per_image",
]
