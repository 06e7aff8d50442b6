"""Activation maps of a weak data set, by a trained image classifier.

Example:
    python tools/generate_cams.py --config-file configs/PascalVOC-Classification/cnn_lite0.yaml \
        --input output/classifier/model_final.pth --output output/cams \
        DATASETS.TRAIN "('voc_2007_trainval_weak',)"

Images of DATASETS.TRAIN get maps of their tags, others maps of predicted classes
(WEAKSAM.CAMS.GATE_TRAIN, GATE_TEST). A second run goes on where the first one stopped. Without
--input the published weights of MODEL.CLASSIFIER.WEIGHTS are used as they are.
"""

import argparse

from weaksam_d2.engine.cli import (
    add_parts_arguments,
    check_parts_arguments,
    run_command,
    setup,
    stage_argument_parser,
)
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.stages.image_stages import Placement, cams_stage, outcome
from weaksam_d2.engine.stages.ranks import run_ranks
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` is a checkpoint of a classifier trained by train_net.py."""
    parser = stage_argument_parser(__doc__ or "")
    add_parts_arguments(parser)
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    args = parser.parse_args()
    check_parts_arguments(parser, args)
    if args.input is not None and not args.input.is_file():
        parser.error(f"--input {args.input} is not a file with the classifier's weights")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact ``cams/``."""
    cfg = setup(args, add_all_configs)
    manifest = cams_stage(cfg, single_dataset(cfg, args.dataset), args.input, Placement.of(args))
    print(outcome(args, manifest))


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: run_ranks(main, arguments))
