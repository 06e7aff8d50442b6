"""mIoU, precision and recall of label maps against the true ones; nothing is trained or chosen.

Examples:
    # Pseudo labels before and after SEPL, with 95 % intervals over the images
    python tools/evaluate_labels.py --input CAM=output/labels SEPL=output/sepl \
        --dataset voc_2012_seg_train_weak --output output/figures TEST.BOOTSTRAP 1000
    # Activation maps as they are, cut at WEAKSAM.LABELS.BACKGROUND; and what every other threshold
    # would give, which no stage may know
    python tools/evaluate_labels.py --input output/cams --dataset voc_2012_seg_train_weak \
        --tune-threshold-with-gt --output output/cam_figures

An input is an artifact labels/, a folder of <image id>.png of someone else (values: --encoding), or
an artifact cams/. Pixels without a true label (255) do not count; pixels that an input leaves
without a label are misses of their class. Image precision and recall are means over the classes of
an image, then over the images. The true label maps are those of the set that
sem_seg_evaluation_name names in the data set's metadata.
"""

import argparse
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts import MASK_ENCODINGS, write_json
from weaksam_d2.engine.analysis.label_figures import label_figures
from weaksam_d2.engine.analysis.proposal_tables import rounded, store_paths
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.evaluation import class_table, label_table
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` are label maps or activation maps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="[NAME=]FOLDER",
        help="labels/, a folder of PNG files, or cams/; may be repeated",
    )
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    parser.add_argument("--config-file", default="", metavar="FILE")
    parser.add_argument("--output", type=Path, metavar="DIR", help="figures.json goes there")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument(
        "--encoding", choices=MASK_ENCODINGS, default="labels", help="of someone else's PNG files"
    )
    parser.add_argument(
        "--tune-threshold-with-gt",
        action="store_true",
        help="of cams/: also the threshold that the truth likes best; an analysis, not a result",
    )
    parser.add_argument("--register", action="append", default=[], metavar="MODULE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args()
    args.input = store_paths(parser, args.input, files=True)
    args.figures = None if args.output is None else args.output / "figures.json"
    if args.figures is not None and args.figures.exists() and not args.overwrite:
        parser.error(f"{args.figures} exists; replace it with --overwrite")
    return args


def main(args: argparse.Namespace) -> None:
    """Print a row for each input and the figures of the classes, and write them as JSON."""
    cfg = setup(args, add_all_configs)
    found = label_figures(
        cfg,
        args.input,
        single_dataset(cfg, args.dataset),
        encoding=args.encoding,
        tune_threshold=args.tune_threshold_with_gt,
    )
    if args.figures is not None:
        args.output.mkdir(parents=True, exist_ok=True)
        write_json(args.figures, rounded(found))
    print(label_table({name: row["figures"] for name, row in found["inputs"].items()}))
    for name, row in found["inputs"].items():
        print(f"\n{name}\n{class_table({'labels': _by_class(row)})}")
        if "threshold" in row:
            best = row["threshold"]
            print(
                f"with the truth: mIoU_oracle_threshold {best['mIoU_oracle_threshold']:.2f} at "
                f"constant:{best['oracle_threshold']:.2f} (an analysis, never made into labels)"
            )
    print(f"\n{found['images']} images of {found['dataset']}, true label maps of {found['truth']}")


def _by_class(row: dict[str, Any]) -> dict[str, float]:
    """The figures of a row with those of its classes as ``<figure>-<class>``."""
    classes = {f"{k}-{cls}": v for cls, values in row["classes"].items() for k, v in values.items()}
    return {**row["figures"], **classes}


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
