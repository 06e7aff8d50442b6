"""Draw what a stage made on its images: maps, prompts, proposals, pseudo boxes, detections.

Examples:
    # Three stages of one image side by side
    python tools/visualize_artifacts.py --config-file configs/pipelines/scenes_demo.yaml \
        --input maps=output/demo/cams/scenes_train_weak \
        prompts=output/demo/prompts/scenes_train_weak \
        boxes=output/demo/proposals/scenes_train_weak \
        --image-id scene_000003 --output output/pictures
    # 20 evenly spread images of two proposal stores, the first 100 boxes each
    python tools/visualize_artifacts.py --config-file configs/pipelines/scenes_demo.yaml \
        --input WeakSAM=output/demo/proposals/scenes_train_weak \
        SS=output/demo/proposals/scenes_train_weak_selective_search \
        --limit 100 --num-images 20 --output output/pictures

--input are folders (with an optional title, NAME=FOLDER) of generate_cams, generate_prompts,
generate_proposals and generate_pseudo_gt, or files detections.json and pseudo_gt.json. Each image
gives one file OUTPUT/<image id>.png; a / in an id becomes __. No true box is drawn or read.
"""

import argparse
from pathlib import Path

from PIL import Image
from tqdm import tqdm

from weaksam_d2.artifacts import atomic_write
from weaksam_d2.data import read_image, weak_records
from weaksam_d2.engine.analysis.artifact_pictures import DrawingOptions, open_drawing, side_by_side
from weaksam_d2.engine.analysis.proposal_tables import store_paths
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.pipeline.report import evenly
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--input", nargs="+", required=True, metavar="[NAME=]PATH")
    parser.add_argument("--output", type=Path, required=True, help="folder of the pictures")
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    parser.add_argument("--image-id", nargs="+", default=[], help="these images")
    parser.add_argument("--num-images", type=int, default=12, help="else so many, evenly spread")
    parser.add_argument("--limit", type=int, default=0, help="first boxes drawn (0: all)")
    parser.add_argument("--score-thresh", type=float, default=0.0, help="of detections")
    colors = ("class", "source", "head", "block")
    parser.add_argument("--color-by", choices=colors, default="class", help="of prompts")
    parser.add_argument("--cam-kind", choices=("coarse", "fine"), default="coarse")
    parser.add_argument("--register", action="append", default=[], metavar="MODULE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args()
    args.input = store_paths(parser, args.input, files=True)
    if args.num_images < 1 or args.limit < 0:
        parser.error("--num-images must be above 0 and --limit not below")
    return args


def main(args: argparse.Namespace) -> None:
    """Draw each chosen image."""
    cfg = setup(args, add_all_configs)
    dataset = single_dataset(cfg, args.dataset)
    records = {str(record["image_id"]): record for record in weak_records(dataset)}
    if unknown := [image_id for image_id in args.image_id if image_id not in records]:
        raise ValueError(
            f"--image-id {unknown[0]}: not in data set {dataset}, whose {len(records)} ids look "
            f"like {next(iter(records), '(it is empty)')}"
        )
    options = DrawingOptions(args.limit, args.score_thresh, args.color_by, args.cam_kind)
    drawings = {name: open_drawing(path, dataset, options) for name, path in args.input.items()}
    chosen = args.image_id or evenly(list(records), args.num_images)
    for image_id in tqdm(chosen, unit="image"):
        image = read_image(records[image_id]["file_name"])
        pictures = {name: draw(image, image_id) for name, draw in drawings.items()}
        with atomic_write(args.output / f"{image_id.replace('/', '__')}.png") as path:
            Image.fromarray(side_by_side(pictures)).save(path)
    print(f"{args.output}: {len(chosen)} pictures")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
