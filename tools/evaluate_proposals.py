"""Recall of proposal stores on the annotated twin of their data set; nothing is trained.

Example:
    python tools/evaluate_proposals.py --config-file configs/pipelines/scenes_demo.yaml \
        --input output/demo/proposals/scenes_demo_train_weak --output output/recall.json --check
    python tools/evaluate_proposals.py --config-file configs/pipelines/scenes_demo.yaml \
        --input WeakSAM=output/demo/proposals/scenes_demo_train_weak \
        "Selective Search=output/demo/proposals/scenes_demo_train_weak_selective_search" \
        --by-source --equal-count --output output/table.json TEST.BOOTSTRAP 1000

Prints a table and writes figures (JSON) and curves (--plot, SVG unless named otherwise): recall
with one proposal for each object (one2one, the paper's figure) and with the best proposal (any),
average recall, the mean number of boxes, by size and class, with the first 250, 1000 and 2000
boxes. --by-source divides a store as the paper's Table 4: dense only, + fine, + coarse, + cross,
then each source alone. --equal-count also gives the others only as many boxes of an image as the
first store has there. TEST.BOOTSTRAP asks for 95 % intervals over images, also of the difference
to the first store. Difficult objects count (--without-difficult leaves them out), crowds never
do. --check looks at every stored box first.
"""

import argparse

from tabulate import tabulate

from weaksam_d2.artifacts import write_json
from weaksam_d2.engine.analysis.proposal_tables import (
    compare_stores,
    finish_store_flags,
    open_stores,
    plot_recall,
    rounded,
    stores_argument_parser,
)
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.evaluation import table_rows
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` are artifacts ``proposals/``."""
    parser = stores_argument_parser(__doc__ or "")
    parser.add_argument("--by-source", action="store_true", help="rows of the paper's Table 4")
    parser.add_argument("--without-difficult", action="store_true", help="VOC's difficult objects")
    parser.add_argument("--check", action="store_true", help="check every box of the stores")
    args = parser.parse_args()
    finish_store_flags(parser, args)
    return args


def main(args: argparse.Namespace) -> None:
    """Print the table, write it as JSON and draw it."""
    cfg = setup(args, add_all_configs)
    table, settings, facts = compare_stores(
        open_stores(args.input, check=args.check),
        single_dataset(cfg, args.dataset),
        cfg,
        ids_file=args.ids,
        by_source=args.by_source,
        equal_count=args.equal_count,
        difficult=not args.without_difficult,
    )
    first = rounded(next(iter(table.values())))
    compatible = {kind: first[kind] for kind in ("one2one", "any", "average_recall")}
    write_json(args.output, {"proposals": compatible, "table": rounded(table), "facts": facts})
    if facts["objects"]:
        plot_recall(args.plot, table, title=f"{facts['dataset']}, {facts['images']} images")
    headers, rows = table_rows(table, settings)
    print(tabulate(rows, headers=headers, disable_numparse=True))
    print(", ".join(f"{name}: {value}" for name, value in facts.items()))


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
