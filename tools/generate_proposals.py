"""Proposal boxes of a weak data set: SAM on its prompts, or another method of the config.

Example:
    python tools/generate_proposals.py --config-file configs/pipelines/voc07_mist.yaml \
        --input output/voc07/prompts --output output/voc07/proposals
    python tools/generate_proposals.py --config-file configs/pipelines/voc07_mist.yaml \
        --output output/voc07/selective_search WEAKSAM.PROPOSALS.METHOD SelectiveSearch

Without --input, SAM is prompted with the dense grid alone. Several processes share the work with
--num-shards and --shard; a run that was killed goes on at the part it was in.
"""

import argparse

from weaksam_d2.engine.cli import (
    prepare_process,
    run_command,
    setup,
    stage_argument_parser,
)
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.stages import Placement, proposals_stage
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` is the artifact ``prompts/``."""
    parser = stage_argument_parser(__doc__ or "")
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    args = parser.parse_args()
    if args.input is not None and not args.input.is_dir():
        parser.error(f"--input {args.input} is not a folder with prompts")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact ``proposals/``."""
    cfg = setup(args, add_all_configs)
    place = Placement(
        args.output, overwrite=args.overwrite, num_shards=args.num_shards, shard=args.shard
    )
    manifest = proposals_stage(cfg, single_dataset(cfg, args.dataset), args.input, place)
    if manifest is None:
        print(f"shard {args.shard} of {args.num_shards} is done; other shards owe parts")
    else:
        print(f"{args.output}: {manifest.counts}")


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: main(arguments))
