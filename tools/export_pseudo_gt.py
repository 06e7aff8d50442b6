"""Pseudo ground truth for other programs and label tools: COCO, PASCAL VOC XML or YOLO.

Examples:
    python tools/export_pseudo_gt.py --input output/demo/pseudo_gt/adaptive --to voc \
        --images datasets/scenes/images --output output/demo_voc
    python tools/export_pseudo_gt.py --input output/demo/pseudo_gt/adaptive --to yolo \
        --images datasets/scenes/images --copy-images --output output/demo_yolo

With --images the layout gets a link to that folder, so that its images are found where the layout
has them; they are copied with --copy-images only. docs/pseudo_gt.md says how LabelImg, CVAT, Label
Studio and FiftyOne open the result.
"""

import argparse
from pathlib import Path

from weaksam_d2.artifacts import atomic_folder, read_pseudo_gt
from weaksam_d2.engine.cli import run_command
from weaksam_d2.pseudo_gt import EXPORT_LAYOUTS, export_pseudo_gt


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, help="pseudo_gt.json, or its folder")
    add("--output", type=Path, required=True, help="folder to write")
    add("--to", required=True, choices=sorted(EXPORT_LAYOUTS))
    add("--split", default="train", help="name of the image list")
    add("--images", type=Path, help="folder that the file names are relative to")
    add("--copy-images", action="store_true", help="copy them instead of a link to the folder")
    add("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args()
    if args.copy_images and args.images is None:
        parser.error("--copy-images needs --images")
    return args


def main(args: argparse.Namespace) -> None:
    """Read the file and write it in the layout that was asked for."""
    path = args.input / "pseudo_gt.json" if args.input.is_dir() else args.input
    pgt = read_pseudo_gt(path)
    with atomic_folder(args.output, overwrite=args.overwrite) as folder:
        counts = export_pseudo_gt(
            pgt,
            folder,
            args.to,
            split=args.split,
            images=args.images,
            copy_images=args.copy_images,
        )
    print(f"{args.output}: {counts}")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
