"""Are regions with a high loss the ones with wrong pseudo boxes (the paper's Fig. 3 and 7)?

Example:
    python tools/analyze_roi_loss.py \
        --config-file configs/PascalVOC-Detection/faster_rcnn_R_50_FPN_roi_drop_1x.yaml \
        --output output/voc07/roi_loss.json MODEL.WEIGHTS output/voc07/retrain/model_0001999.pth \
        DATASETS.PSEUDO_GT_TRAIN "('output/voc07/pseudo_gt/pseudo_gt.json',)"

Runs a detector over its training images without updating it, best from a checkpoint before RoI
drop starts. Losses of the sampled regions are scaled to [0, 1] by their range and binned; for each
bin: how many regions, and which share of them is matched to a pseudo box that has an IoU below
--iou with every true box of the image (and with every one of its class). True boxes come from the
annotated twin of DATASETS.TRAIN: for analysis only. Writes JSON and a plot (--plot, SVG unless
named otherwise).
"""

import argparse
from pathlib import Path

from tabulate import tabulate

from weaksam_d2.artifacts import write_json
from weaksam_d2.engine.analysis.region_recorder import collect_regions, load_detector
from weaksam_d2.engine.analysis.roi_loss_analysis import error_panels, error_tables, pseudo_records
from weaksam_d2.engine.cli import run_command, setup, stage_argument_parser
from weaksam_d2.projects import add_all_configs
from weaksam_d2.visualization import PLOT_FORMATS, write_plots


def parse_args() -> argparse.Namespace:
    """The command line; ``--output`` is a JSON file."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[stage_argument_parser(__doc__ or "")],
        conflict_handler="resolve",
    )
    parser.add_argument("--images", type=int, default=500, help="at most so many (default: 500)")
    parser.add_argument("--bins", type=int, default=20)
    parser.add_argument("--iou", type=float, default=0.7, help="a pseudo box is right from here on")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="default: --output as .svg")
    args = parser.parse_args()
    args.plot = args.plot or args.output.with_suffix(".svg")
    if args.plot.suffix not in PLOT_FORMATS:
        parser.error(f"--plot {args.plot}: expected a file of {', '.join(PLOT_FORMATS)}")
    if min(args.images, args.bins) < 1 or not 0 < args.iou <= 1:
        parser.error("--images and --bins must be positive, --iou in (0, 1]")
    for path in (args.output, args.plot):
        if path.exists() and not args.overwrite:
            parser.error(f"{path} exists; replace it with --overwrite")
    return args


def main(args: argparse.Namespace) -> None:
    """Print the bins, write them as JSON and draw them."""
    cfg = setup(args, add_all_configs)
    records = pseudo_records(cfg, iou=args.iou)
    model, iteration = load_detector(cfg)
    table = collect_regions(cfg, model, records, images=args.images, seed=max(cfg.SEED, 0))
    found = error_tables(table, bins=args.bins)
    facts = {
        "datasets": list(cfg.DATASETS.TRAIN),
        "images": table.images,
        "iteration": iteration,
        "iou": args.iou,
        "box_loss": f"{cfg.MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE}, {cfg.MODEL.ROI_DROP.REG_REDUCE}",
    }
    write_json(args.output, {**found, "facts": facts})
    title = f"{', '.join(cfg.DATASETS.TRAIN)}, {table.images} images, IoU {args.iou:g}"
    write_plots(args.plot, error_panels(found), title=title)
    cls, reg = found["foreground"]["cls"], found["foreground"]["reg"]
    columns = {
        "cls regions": cls["count"],
        "cls wrong": cls["wrong"]["error_rate"],
        "reg regions": reg["count"],
        "reg wrong": reg["wrong"]["error_rate"],
        "background": found["background"]["cls"]["count"],
    }
    print(tabulate({"bin": range(args.bins), **columns}, headers="keys", floatfmt=".3f"))


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
