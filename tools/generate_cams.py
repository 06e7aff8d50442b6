"""Activation maps of a weak data set, by a trained image classifier.

Example:
    python tools/generate_cams.py --config-file configs/PascalVOC-Classification/cnn_lite0.yaml \
        --input output/classifier/model_final.pth --output output/voc07/cams

Images of DATASETS.TRAIN get maps of their tags, others maps of predicted classes
(WEAKSAM.CAMS.GATE_TRAIN, GATE_TEST). A second run goes on where the first one stopped.
"""

import argparse

from weaksam_d2.engine.cli import run_command, setup, stage_argument_parser
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.stages import Placement, cams_stage
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` is the classifier's weights."""
    parser = stage_argument_parser(__doc__ or "")
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    args = parser.parse_args()
    if args.input is None or not args.input.is_file():
        parser.error(f"--input {args.input} is not a file with the classifier's weights")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact ``cams/``."""
    cfg = setup(args, add_all_configs)
    place = Placement(
        args.output, overwrite=args.overwrite, num_shards=args.num_shards, shard=args.shard
    )
    manifest = cams_stage(cfg, single_dataset(cfg, args.dataset), args.input, place)
    if manifest is None:
        print(f"shard {args.shard} of {args.num_shards} is done; other shards owe parts")
    else:
        print(f"{args.output}: {manifest.counts}")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
