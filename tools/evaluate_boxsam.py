"""Figures of BoxSAM's parts on a weak data set: tags, boxes, labels; nothing is trained.

Examples:
    # The component table: tag mAP, precision, recall and F1, box mAP, mIoU of the labels
    python tools/evaluate_boxsam.py --config-file projects/BoxSAM/configs/boxsam_voc12.yaml \
        --output output/boxsam_figures
    # Tag scores of the set alone, for BOXSAM.TAGGER.SELECTION per_class_topn (--input of
    # tools/generate_labels.py is then output/tags/tag_scores.json)
    python tools/evaluate_boxsam.py --config-file projects/BoxSAM/configs/boxsam_voc12.yaml \
        --only tags --output output/tags
    # An analysis on true boxes: how masks are best grouped in a box (everything: with --masks)
    python tools/evaluate_boxsam.py --config-file projects/BoxSAM/configs/boxsam_voc12.yaml \
        --only groupings --masks output/sam_masks --output output/groupings

The parts are judged by the labels of the records and by the twins that the data set's metadata
names (evaluation_name, sem_seg_evaluation_name, mask_evaluation_name). OUTPUT gets figures.json,
and tag_scores.json where tags are scored.
"""

import argparse
from pathlib import Path
from typing import Any

from tabulate import tabulate
from tqdm import tqdm
from weaksam_d2.projects.boxsam.component_table import PARTS, component_figures

from weaksam_d2.artifacts import write_json
from weaksam_d2.engine.analysis.proposal_tables import rounded
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--input", type=Path, help="tag_scores.json, for per_class_topn")
    parser.add_argument("--masks", type=Path, help="store of SAM's masks, for the mode everything")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS[:3], help="of the parts")
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--register", action="append", default=[], metavar="MODULE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args()
    for flag, path in (("--input", args.input), ("--masks", args.masks)):
        if path is not None and not path.exists():
            parser.error(f"{flag} {path} does not exist")
    if (args.output / "figures.json").exists() and not args.overwrite:
        parser.error(f"{args.output / 'figures.json'} exists; replace it with --overwrite")
    return args


def main(args: argparse.Namespace) -> None:
    """Print the figures and write them as JSON."""
    cfg = setup(args, add_all_configs)
    given = {"input": args.input, "masks": args.masks}
    inputs = {name: path for name, path in given.items() if path is not None}
    with tqdm(desc="BoxSAM", unit="image") as bar:
        figures, scores = component_figures(
            cfg,
            single_dataset(cfg, args.dataset),
            inputs,
            parts=args.only,
            on_progress=bar.update,
        )
    args.output.mkdir(parents=True, exist_ok=True)
    write_json(args.output / "figures.json", rounded(figures))
    if scores is not None:
        scores.write(args.output / "tag_scores.json")
    headers = ("part", "figure", "value")
    print(tabulate(_rows(figures), headers=headers, disable_numparse=True))
    if "warning" in figures:
        print(f"WARNING: {figures['warning']}")


def _rows(figures: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Part, figure and value, with its interval; figures of classes are in the file."""
    parts = {name: value for name, value in figures.items() if isinstance(value, dict)}
    facts = [("", k, str(v)) for k, v in figures.items() if k not in (*parts, "warning")]
    groupings = parts.pop("groupings", {})
    rows = []
    for part, value in {**parts, **groupings}.items():
        for name, number in value.items():
            if name.startswith("AP-") or name.endswith(("_low", "_high")):
                continue
            low, high = value.get(f"{name}_low"), value.get(f"{name}_high")
            interval = "" if low is None else f" ({low:.2f}–{high:.2f})"
            rows.append((part, name, f"{number:.2f}{interval}"))
    return facts + rows


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
