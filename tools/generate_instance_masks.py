"""Masks for the boxes of a weak data set, by SAM prompted with them.

Examples:
    python tools/generate_instance_masks.py --config-file configs/pipelines/scenes_demo.yaml \
        --input output/demo/pseudo_gt/adaptive/pseudo_gt.json --output output/masks
    python tools/generate_instance_masks.py --config-file configs/pipelines/scenes_demo.yaml \
        --detections output/demo/retrain/inference/scenes_demo_val_weak/detections.json \
        --dataset scenes_demo_val_weak --output output/box_to_mask --evaluate

--input gives pseudo_gt.json with a mask for each box, for DATASETS.PSEUDO_GT_TRAIN of a detector
with masks. --detections gives detections.json with masks, a detector's masks without a mask head;
--evaluate then prints their AP where the data set has true masks. Several processes share the work
as those of generate_proposals.py, and a run that was killed goes on at the part it was in.
docs/instance_segmentation.md has the rules.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from tabulate import tabulate

from weaksam_d2.artifacts import read_json
from weaksam_d2.engine.cli import (
    add_parts_arguments,
    check_parts_arguments,
    prepare_process,
    run_command,
    setup,
    stage_argument_parser,
)
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.stages.image_stages import Placement, outcome
from weaksam_d2.engine.stages.mask_stages import (
    detection_masks_stage,
    instance_masks_stage,
    mask_figures_stage,
)
from weaksam_d2.engine.stages.ranks import run_ranks
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; one of ``--input`` and ``--detections``."""
    parser = stage_argument_parser(__doc__ or "")
    add_parts_arguments(parser)
    parser.add_argument("--detections", type=Path, help="detections.json, instead of --input")
    parser.add_argument("--evaluate", action="store_true", help="mask AP of the detections")
    parser.add_argument(
        "--proposals", type=Path, help="store with masks, for WEAKSAM.INSTANCE_MASKS.REUSE_STORED"
    )
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    args = parser.parse_args()
    check_parts_arguments(parser, args)
    if (args.input is None) == (args.detections is None):
        parser.error("give either --input pseudo_gt.json or --detections detections.json")
    if args.evaluate and args.detections is None:
        parser.error("--evaluate goes with --detections")
    for path in (args.input, args.detections):
        if path is not None and not path.is_file():
            parser.error(f"{path} does not exist")
    if args.proposals is not None and not args.proposals.is_dir():
        parser.error(f"--proposals {args.proposals} is not a folder")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact with masks."""
    cfg = setup(args, add_all_configs)
    dataset, place = single_dataset(cfg, args.dataset), Placement.of(args)
    if args.input is not None:
        manifest = instance_masks_stage(cfg, dataset, args.input, place, proposals=args.proposals)
        print(outcome(args, manifest))
        return
    manifest = detection_masks_stage(cfg, dataset, args.detections, place, proposals=args.proposals)
    print(outcome(args, manifest))
    if not args.evaluate or manifest is None or args.rank != 0:
        return
    figures = args.output.with_name(args.output.name + "_figures")
    there = replace(place, output=figures, num_shards=1, shard=0)
    mask_figures_stage(cfg, dataset, args.output / "detections.json", there)
    rows = [(name, value) for name, value in read_json(figures / "results.json").items()]
    print(tabulate(rows, headers=["figure", "%"], floatfmt=".2f"))
    print(f"figures: {figures / 'results.json'}")


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: run_ranks(main, arguments))
