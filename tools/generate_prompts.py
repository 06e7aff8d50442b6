"""Point prompts of a weak data set: peaks of its activation maps; the dense grid as a parameter.

Example:
    python tools/generate_prompts.py --config-file configs/pipelines/scenes_demo.yaml \
        --input output/demo/cams/scenes_demo_train_weak --output output/prompts

Without --input there are no activation maps, and the prompts are the grid alone.
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
from weaksam_d2.engine.stages.image_stages import Placement, outcome, prompts_stage
from weaksam_d2.engine.stages.ranks import run_ranks
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` is the artifact ``cams/``."""
    parser = stage_argument_parser(__doc__ or "")
    add_parts_arguments(parser)
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    args = parser.parse_args()
    check_parts_arguments(parser, args)
    if args.input is not None and not args.input.is_dir():
        parser.error(f"--input {args.input} is not a folder with activation maps")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact ``prompts/``."""
    cfg = setup(args, add_all_configs)
    manifest = prompts_stage(cfg, single_dataset(cfg, args.dataset), args.input, Placement.of(args))
    print(outcome(args, manifest))


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: run_ranks(main, arguments))
