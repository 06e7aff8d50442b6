"""Semantic pseudo labels of a weak data set: images whose pixel values are label ids.

Examples:
    # From activation maps; the dense CRF of this config needs weaksam_d2[crf]
    python tools/generate_labels.py --config-file configs/CAM-Labels/voc12_weaktr.yaml \
        --input output/cams --output output/labels
    # The same labels, improved by SAM's masks of the images
    python tools/generate_labels.py --config-file projects/SEPL/configs/sepl_voc12.yaml \
        --input output/labels --masks output/sam_masks --output output/sepl

WEAKSAM.LABELS.SOURCE says what makes them: CAM, or a source of a project (SEPL, BoxSAM). OUTPUT
holds labels/<image id>.png (0 background, class + 1, 255 ignored), labels.json and manifest.json.
A second run goes on where the first one stopped. For color previews and for the VOC server see
tools/export_labels.py.
"""

import argparse
from pathlib import Path

from weaksam_d2.engine.cli import (
    add_parts_arguments,
    check_parts_arguments,
    run_command,
    setup,
    stage_argument_parser,
)
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.stages.image_stages import Placement, outcome
from weaksam_d2.engine.stages.label_stages import labels_stage
from weaksam_d2.engine.stages.ranks import run_ranks
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` and ``--masks`` are what the label source reads."""
    parser = stage_argument_parser(__doc__ or "")
    add_parts_arguments(parser)
    parser.add_argument("--masks", type=Path, help="store of SAM's masks (SEPL)")
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    args = parser.parse_args()
    check_parts_arguments(parser, args)
    for flag, path in (("--input", args.input), ("--masks", args.masks)):
        if path is not None and not path.exists():
            parser.error(f"{flag} {path} does not exist")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact ``labels/``."""
    cfg = setup(args, add_all_configs)
    given = {"input": args.input, "masks": args.masks}
    inputs = {name: path for name, path in given.items() if path is not None}
    dataset = single_dataset(cfg, args.dataset)
    print(outcome(args, labels_stage(cfg, dataset, inputs, Placement.of(args))))


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: run_ranks(main, arguments))
