"""Pseudo ground truth from the detections of weak detectors on their tagged training images.

Examples:
    python tools/generate_pseudo_gt.py --config-file configs/pipelines/scenes_demo.yaml \
        --detections output/demo/wsod/inference/scenes_demo_train_weak/detections.json \
        --output output/demo_top1 WEAKSAM.PSEUDO_GT.RULE top1
    python tools/generate_pseudo_gt.py --config-file my.yaml --input a.json b.json \
        --output output/both WEAKSAM.PSEUDO_GT.FUSE wbf WEAKSAM.PSEUDO_GT.FUSE_WEIGHTS "(1.0, 2.0)"

Writes pseudo_gt.json (a COCO data set, for DATASETS.PSEUDO_GT_TRAIN) and statistics.json. --analyze
compares the boxes with the true ones, where the data set has an annotated twin; that is printed
and stored apart, and no training stage reads it. docs/pseudo_gt.md has the rules.
"""

import argparse
import re
from pathlib import Path

from weaksam_d2.artifacts import read_json, read_pseudo_gt, write_json
from weaksam_d2.engine.cli import prepare_process, run_command, setup, stage_argument_parser
from weaksam_d2.engine.dataset_choice import annotated_records, single_dataset
from weaksam_d2.engine.stages.image_stages import Placement, pseudo_gt_stage
from weaksam_d2.projects import add_all_configs
from weaksam_d2.pseudo_gt import analyze_pseudo_gt, format_statistics

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+")  # WEAKSAM.PSEUDO_GT.RULE


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[stage_argument_parser("")],
        conflict_handler="resolve",  # --input takes several files here
    )
    parser.add_argument(
        *("--detections", "--input"),
        nargs="+",
        required=True,
        metavar="FILE",
        help="detections.json of one or several detectors",
    )
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    parser.add_argument("--analyze", action="store_true", help="precision and recall, if possible")
    args = parser.parse_args()
    # KEY VALUE pairs right behind the files are taken for files.
    keys = [place for place, word in enumerate(args.detections) if KEY.fullmatch(word)]
    end = keys[0] if keys else len(args.detections)
    args.opts = [*args.detections[end:], *args.opts]
    args.detections = [Path(name) for name in args.detections[:end]]
    for path in args.detections:
        if not path.is_file():
            parser.error(f"--detections {path} does not exist")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact ``pseudo_gt/``."""
    cfg = setup(args, add_all_configs)
    dataset = single_dataset(cfg, args.dataset)
    place = Placement(args.output, overwrite=args.overwrite)
    pseudo_gt_stage(cfg, dataset, args.detections, place)
    print(format_statistics(read_json(args.output / "statistics.json")))
    if not args.analyze:
        return
    truth = annotated_records(dataset)
    if not truth:
        raise ValueError(f"--analyze: data set '{dataset}' has no annotated twin")
    found = analyze_pseudo_gt(read_pseudo_gt(args.output / "pseudo_gt.json"), truth)
    write_json(args.output.with_name(args.output.name + "_analysis.json"), found)
    for name in ("precision", "recall", "boxes_per_image"):
        print(f"{name}: {found[name]:.2f}")


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: main(arguments))
