"""How alike the proposals of one image look to a frozen network (the paper's Fig. 6).

Example:
    python tools/analyze_proposals.py --config-file configs/Base-WSOD-Lite0.yaml \
        --input WeakSAM=output/voc07/proposals "Selective Search=output/voc07/selective_search" \
        --dataset voc_2007_trainval_weak --equal-count --output output/voc07/similarity.json

Features are the mean over 7 x 7 cells of RoIAlign on the map of the config's backbone
(MODEL.ROI_HEADS.IN_FEATURES) with its weights (MODEL.TIMM.WEIGHTS or MODEL.WEIGHTS). The figure is
the mean cosine similarity of all pairs of boxes of an image, averaged over images, with the 95 %
interval over images (TEST.BOOTSTRAP resamples, 1000 if it is 0). Low: the boxes show different
things. No true box is read. Writes JSON and a plot (--plot, SVG unless named otherwise).
"""

import argparse

from tabulate import tabulate

from weaksam_d2.artifacts import write_json
from weaksam_d2.data import weak_records
from weaksam_d2.engine.analysis.proposal_analysis import (
    RoIFeatures,
    measure_similarity,
    similarity_panels,
    similarity_table,
)
from weaksam_d2.engine.analysis.proposal_tables import (
    choose_records,
    finish_store_flags,
    open_stores,
    rounded,
    stores_argument_parser,
    whole_views,
)
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.projects import add_all_configs
from weaksam_d2.visualization import write_plots

RESAMPLES = 1000  # where TEST.BOOTSTRAP is 0: the figure comes with an interval


def parse_args() -> argparse.Namespace:
    """The command line; ``--input`` are artifacts ``proposals/``."""
    parser = stores_argument_parser(__doc__ or "")
    args = parser.parse_args()
    finish_store_flags(parser, args)
    return args


def main(args: argparse.Namespace) -> None:
    """Print the table, write it as JSON and draw it."""
    cfg = setup(args, add_all_configs)
    dataset = single_dataset(cfg, args.dataset)
    records = choose_records(weak_records(dataset), args.ids)
    ids = [str(record["image_id"]) for record in records]
    views = whole_views(open_stores(args.input), ids, equal_count=args.equal_count)
    values = measure_similarity(records, views, RoIFeatures.from_config(cfg))
    resamples = cfg.TEST.BOOTSTRAP or RESAMPLES
    table = similarity_table(values, resamples=resamples)
    facts = {
        "dataset": dataset,
        "images": len(ids),
        "backbone": f"{cfg.MODEL.BACKBONE.NAME} {cfg.MODEL.TIMM.NAME}".strip(),
        "resamples": resamples,
    }
    write_json(args.output, {"similarity": rounded(table, digits=4), "facts": facts})
    title = f"{dataset}, {len(ids)} images"
    write_plots(args.plot, similarity_panels(values, table), title=title)
    figures = ("similarity", "similarity_low", "similarity_high", "difference", "images")
    rows = [[name, *(row.get(key) for key in figures)] for name, row in table.items()]
    print(tabulate(rows, headers=("proposals", *figures), floatfmt=".4f"))


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
