"""Split the training images by how well a detector's losses fit their pseudo boxes (SoS-WSOD).

Example:
    python tools/split_clean.py \
        --config-file configs/PascalVOC-Detection/faster_rcnn_R_50_FPN_roi_drop_1x.yaml \
        --output output/voc07/clean --count 2000 \
        MODEL.WEIGHTS output/voc07/retrain/model_final.pth \
        DATASETS.PSEUDO_GT_TRAIN "('output/voc07/pseudo_gt/adaptive/pseudo_gt.json',)"

Writes OUTPUT/clean.txt (the --count images with the smallest sum of the four R-CNN losses),
OUTPUT/rest.txt (the others, one image id in a line) and OUTPUT/losses.json. Nothing is trained.
"""

import argparse
from pathlib import Path

from weaksam_d2.artifacts import atomic_folder, sha256_file, write_json
from weaksam_d2.engine.cli import prepare_process, run_command, setup
from weaksam_d2.engine.pipeline.stored_config import load_detector
from weaksam_d2.engine.training.clean_split import clean_split, image_losses, split_records
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--count", type=int, required=True, help="images of the clean part")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--register", action="append", default=[], metavar="MODULE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Measure every image, then write the two lists."""
    cfg = setup(args, add_all_configs)
    cfg.defrost()
    cfg.MODEL.ROI_DROP.MODE = "off"
    cfg.freeze()
    records = split_records(cfg)
    losses = image_losses(cfg, load_detector(cfg, cfg.MODEL.WEIGHTS), records)
    clean, rest = clean_split(losses, args.count)
    with atomic_folder(args.output, overwrite=args.overwrite) as folder:
        for name, ids in (("clean", clean), ("rest", rest)):
            (folder / f"{name}.txt").write_text("".join(f"{image_id}\n" for image_id in ids))
        labels = [sha256_file(Path(path)) for path in cfg.DATASETS.PSEUDO_GT_TRAIN]
        write_json(folder / "losses.json", {"pseudo_gt_sha256": labels, "losses": losses})
    print(f"{args.output}: {len(clean)} clean images, {len(rest)} others")


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: main(arguments))
