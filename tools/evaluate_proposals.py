"""Recall of a proposal store on the annotated twin of its data set; nothing is trained.

Example:
    python tools/evaluate_proposals.py --config-file configs/pipelines/voc07_mist.yaml \
        --input output/voc07/proposals --output output/voc07/proposals_recall.json --check

Prints and writes recall with one proposal for each object (one2one, the paper's figure), with the
best proposal (any), average recall, and the mean number of boxes of an image. --check looks at
every stored box first.
"""

import argparse
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from tabulate import tabulate

from weaksam_d2.artifacts import ProposalStore, write_json
from weaksam_d2.engine.cli import run_command, setup, stage_argument_parser
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.figures import annotated_records
from weaksam_d2.evaluation import average_recall, compute_recall, store_boxes
from weaksam_d2.projects import add_all_configs

COUNTS = (100, 1000)  # of AR@N


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` is the artifact ``proposals/``."""
    parser = stage_argument_parser(__doc__ or "")
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    parser.add_argument("--check", action="store_true", help="check every box of the store")
    args = parser.parse_args()
    if args.input is None or not args.input.is_dir():
        parser.error(f"--input {args.input} is not a folder with proposals")
    if args.output.exists() and not args.overwrite:
        parser.error(f"--output {args.output} exists; replace it with --overwrite")
    return args


def evaluate(store: ProposalStore, cfg: Any, dataset: str) -> dict[str, dict[str, float]]:
    """Figures in percent by kind; one that is not defined (no object) is absent."""
    records = annotated_records(dataset)
    if not records:
        raise ValueError(
            f"data set {dataset} has no annotated twin; set evaluation_name in its metadata "
            f"(now {MetadataCatalog.get(dataset).get('evaluation_name', '')!r})"
        )
    objects, boxes = store_boxes(store, records)
    ious = cfg.TEST.RECALL_IOUS
    figures = {match: compute_recall(objects, boxes, ious, match) for match in ("one2one", "any")}
    figures["average_recall"] = average_recall(objects, boxes, COUNTS)
    return {
        kind: {name: round(float(v), 2) for name, v in row.items() if np.isfinite(v)}
        for kind, row in figures.items()
    }


def main(args: argparse.Namespace) -> None:
    """Print the table and write it as JSON."""
    cfg = setup(args, add_all_configs)
    store = ProposalStore.open(args.input)
    problems = store.check() if args.check else []
    if problems:
        raise ValueError("\n".join([f"{args.input} has bad proposals", *problems]))
    figures = evaluate(store, cfg, single_dataset(cfg, args.dataset))
    write_json(args.output, {"proposals": figures})
    rows = [(kind, name, value) for kind, row in figures.items() for name, value in row.items()]
    print(tabulate(rows, headers=("matching", "figure", "percent (per_image: boxes)")))


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
