"""Proposals from and to the files of other programs; stores merged, cut down, counted, checked.

Examples:
    # Selective Search boxes of Fast R-CNN as a store, and back as a file for detectron2
    python tools/convert_proposals.py --from selective_search --dataset voc_2007_trainval_weak \
        --input SelectiveSearchVOC2007trainval.mat --output output/voc07/ss
    python tools/convert_proposals.py --input output/voc07/ss --to detectron2 --output ss.pkl
    # The boxes of two stores of the same images as one, without repeats; the best 1000 of each
    python tools/convert_proposals.py --input output/voc07/proposals output/voc07/ss \
        --merge boxes --dedupe 0.0625 --top-k 1000 --output output/voc07/both
    # trainval from train and val; a file of another program to that of a third
    python tools/convert_proposals.py --input output/train output/val --merge images \
        --output output/trainval
    python tools/convert_proposals.py --from wetectron --input SS-voc_2007_test-boxes.pkl \
        --dataset voc_2007_test_weak --to coco --output ss.json
    # What is in a store, and whether every box and mask is sound
    python tools/convert_proposals.py --input output/voc07/both --stats --check

Formats to read: coco csv detectron2 mcg mmdet sam_json sam_png selective_search weaksam wetectron;
to write: all but mcg, sam_* and weaksam. No pickle is run: one that holds more than plain data is
refused. Files of other programs need --dataset: their images and sizes are checked against it.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory

from weaksam_d2.artifacts import ProposalStore
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.stages.conversion import (
    conversion_manifest,
    import_store,
    make_view,
    save_view,
)
from weaksam_d2.projects import add_all_configs
from weaksam_d2.proposals.convert import READERS, WRITERS, check_masks, proposal_statistics


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="for DATASETS.* that name data sets")
    add("--register", action="append", default=[], metavar="MODULE")
    add("--input", type=Path, nargs="+", required=True, help="stores, or one foreign file")
    add("--output", type=Path, help="store or file to write")
    add("--from", dest="source_format", default="store", choices=["store", *sorted(READERS)])
    add("--to", dest="target_format", default="store", choices=["store", *sorted(WRITERS)])
    add("--dataset", default="", help="weak data set of a foreign file")
    add("--missing", choices=["error", "empty"], default="error", help="images without an entry")
    add("--box-format", choices=["auto", "xyxy", "xywh"], help="of --from weaksam")
    add("--max-misplaced", type=float, default=0.01, help="share of bad boxes that is tolerated")
    add("--source", help="name of an imported file's boxes in the store's sources")
    add("--merge", choices=["boxes", "images"], help="several stores: of the same images, or not")
    add("--dedupe", type=float, metavar="PIXELS", help="drop boxes equal after rounding to this")
    add("--ids", type=Path, metavar="FILE", help="keep these images, one id in a line")
    add("--num-images", type=int, help="keep the first images")
    add("--top-k", type=int, help="keep the first boxes of each image")
    add("--sources", nargs="+", help="keep the boxes of these sources")
    add("--no-masks", action="store_true", help="leave masks out")
    add("--scores", choices=["rank", "stored"], default="rank", help="what --to writes as scores")
    add("--stats", action="store_true", help="print figures (JSON)")
    add("--check", action="store_true", help="check every box and mask of the inputs")
    add("--overwrite", action="store_true", help="replace what is there")
    add("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args()
    foreign = args.source_format != "store"
    if foreign and (len(args.input) > 1 or not args.dataset):
        parser.error(f"--from {args.source_format} takes one --input, and needs --dataset")
    if len(args.input) > 1 and args.output is not None and not args.merge:
        parser.error("several --input need --merge boxes or --merge images")
    if len(args.input) == 1 and args.merge:
        parser.error("--merge needs several --input")
    if args.output is None and not (args.stats or args.check):
        parser.error("say --output, --stats or --check")
    if args.output is not None and args.output.exists() and not args.overwrite:
        parser.error(f"--output {args.output} exists; replace it with --overwrite")
    return args


def check(store: ProposalStore) -> None:
    """Refuse a store with a bad box or mask."""
    problems = [*store.check(), *check_masks(store)]
    if problems:
        raise ValueError("\n".join([f"{store.path} has bad proposals", *problems]))
    print(f"{store.path}: {int(store.counts().sum())} boxes of {len(store)} images are sound")


def open_stores(args: argparse.Namespace, folder: Path) -> tuple[list[ProposalStore], dict]:
    """The inputs, a foreign file as a store in ``folder``, and the counts of its import."""
    if args.source_format == "store":
        return [ProposalStore.open(path) for path in args.input], {}
    options = {"box_format": args.box_format} if args.box_format else {}
    counts = import_store(
        args.input[0],
        args.source_format,
        args.dataset,
        folder / "imported",
        missing=args.missing,
        max_misplaced=args.max_misplaced,
        source=args.source,
        **options,
    )
    return [ProposalStore.open(folder / "imported")], counts


def main(args: argparse.Namespace) -> None:
    """Read, change, write, and say what there is."""
    setup(args, add_all_configs)
    with TemporaryDirectory() as folder:
        stores, counts = open_stores(args, Path(folder))
        for store in stores if args.check else ():
            check(store)
        settings = {
            "merge": args.merge,
            "dedupe": args.dedupe,
            "image_ids": args.ids.read_text(encoding="utf-8").split() if args.ids else None,
            "num_images": args.num_images,
            "sources": args.sources,
            "top_k": args.top_k,
            "masks": not args.no_masks,
        }
        single = len(stores) == 1 or args.merge
        views = [make_view(stores, **settings)] if single else stores
        for view in views if args.stats else ():
            print(json.dumps(proposal_statistics(view), indent=1))
        if args.output is None:
            return
        settings |= {"from": args.source_format, "to": args.target_format, "scores": args.scores}
        settings |= {"box_format": args.box_format, "source": args.source, "missing": args.missing}
        manifest = conversion_manifest(args.input, settings, args.dataset)
        manifest.counts = counts
        done = save_view(
            views[0],
            args.output,
            args.target_format,
            manifest,
            scores=args.scores,
            overwrite=args.overwrite,
        )
        print(f"{args.output}: {done.counts}")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
