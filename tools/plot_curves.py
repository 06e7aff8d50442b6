"""Draw learning curves of one or several trainings beside each other.

Examples:
    python tools/plot_curves.py --runs output/dino --output output/dino/curves.svg
    python tools/plot_curves.py --runs none=output/dino_no_drop things=output/dino \
        --figures total_loss scenes_demo_val_weak/bbox/AP50 --output output/query_drop.png

--runs takes folders of trainings (tools/train_net.py, or a stage of tools/run_pipeline.py), each
with a name if wanted. Each figure of their metrics.json that is asked for gets a panel; --list
prints which there are. AP during training needs TEST.EVAL_PERIOD.
"""

import argparse
from pathlib import Path

from weaksam_d2.engine.analysis.learning_curves import learning_curves, read_curves
from weaksam_d2.engine.cli import run_command
from weaksam_d2.visualization import write_plots


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", nargs="+", required=True, metavar="[NAME=]FOLDER")
    parser.add_argument("--figures", nargs="+", metavar="NAME", help="default: losses and AP50")
    parser.add_argument("--output", type=Path, help="a .png, .svg or .pdf")
    parser.add_argument("--list", action="store_true", help="print the figures that there are")
    args = parser.parse_args()
    if not args.list and args.output is None:
        parser.error("name the --output, or --list the figures")
    return args


def main(args: argparse.Namespace) -> None:
    """Read the runs, draw the panels."""
    runs = {}
    for entry in args.runs:
        name, _, folder = entry.rpartition("=")
        runs[name or Path(folder).name] = Path(folder) / "metrics.json"
    known = sorted({figure for path in runs.values() for figure in read_curves(path)})
    if args.list:
        print("\n".join(known))
        return
    usual = [name for name in known if name == "total_loss" or name.endswith("/AP50")]
    write_plots(args.output, learning_curves(runs, args.figures or usual))
    print(f"{args.output}: {', '.join(args.figures or usual)} of {', '.join(runs)}")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
