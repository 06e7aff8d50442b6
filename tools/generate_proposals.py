"""Proposal boxes of a weak data set: SAM on its prompts, or another method of the config.

Example:
    python tools/generate_proposals.py --config-file configs/pipelines/scenes_demo.yaml \
        --input output/demo/prompts/scenes_demo_train_weak --output output/proposals
    python tools/generate_proposals.py --config-file configs/pipelines/scenes_demo.yaml \
        --output output/selective_search WEAKSAM.PROPOSALS.METHOD SelectiveSearch

Without --input, SAM is prompted with the dense grid alone. Several processes share the work with
--num-gpus (or torchrun), --num-shards and --shard, or --ray (docs/scale_out.md); a run that was
killed goes on at the part it was in.
"""

import argparse
from dataclasses import replace

from weaksam_d2.engine.cli import (
    add_parts_arguments,
    check_parts_arguments,
    prepare_process,
    run_command,
    setup,
    stage_argument_parser,
)
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.stages.image_stages import Placement, outcome, proposals_stage
from weaksam_d2.engine.stages.ranks import run_ranks
from weaksam_d2.engine.stages.ray_parts import ray_dispatch
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` is the artifact ``prompts/``."""
    parser = stage_argument_parser(__doc__ or "")
    add_parts_arguments(parser)
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="parts as Ray tasks: local (this machine), auto or the address of a cluster",
    )
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    args = parser.parse_args()
    check_parts_arguments(parser, args)
    if args.ray is not None and max(args.num_gpus, args.num_machines, args.num_shards) > 1:
        parser.error("--ray shares the work itself: leave out ranks, machines and shards")
    if args.input is not None and not args.input.is_dir():
        parser.error(f"--input {args.input} is not a folder with prompts")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact ``proposals/``."""
    cfg = setup(args, add_all_configs)
    place = Placement.of(args)
    if args.ray is not None:
        place = replace(place, dispatch=ray_dispatch(main, args, cfg))
    manifest = proposals_stage(cfg, single_dataset(cfg, args.dataset), args.input, place)
    print(outcome(args, manifest))


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: run_ranks(main, arguments))
