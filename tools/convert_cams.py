"""Activation maps that official codes wrote, one `<image id>.npy` for each image, as a store.

Examples:
    # CLIP-ES's maps of VOC 2012, then labels from them
    python tools/convert_cams.py --from clip_es --dataset voc_2012_seg_train_weak \
        --input CLIP-ES/output/voc12/cams --output output/clip_es_cams
    python tools/generate_labels.py --config-file configs/CAM-Labels/voc12_clip_es.yaml \
        --input output/clip_es_cams --output output/clip_es_labels
    # WeakTr's of COCO 2014, whose numbers are category ids, at an eighth of their size
    python tools/convert_cams.py --from class_maps --channels category_channels --stride 8 \
        --dataset coco_2014_train_weak --input WeakTr/cam-npy --output output/weaktr_cams

Layouts: clip_es {"keys", "attn_highres"}; irn {"keys", "high_res"}; class_maps {class: map} of
MCTformer, WeakTr and S2C. No pickle is run: one that holds more than plain data is refused. A
second run goes on where the first one stopped.
"""

import argparse
from pathlib import Path

from weaksam_d2.artifacts import CHANNEL_ENCODINGS
from weaksam_d2.cams import OFFICIAL_LAYOUTS, OfficialCams
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.engine.stages.cam_import import import_cams_stage
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="for DATASETS.* that name data sets")
    add("--register", action="append", default=[], metavar="MODULE")
    add("--input", type=Path, required=True, help="folder of the .npy files")
    add("--output", type=Path, required=True, help="store to write")
    add("--dataset", required=True, help="weak data set: images, their sizes and tags")
    add("--from", dest="layout", required=True, choices=sorted(OFFICIAL_LAYOUTS))
    add("--channels", choices=CHANNEL_ENCODINGS, default="contiguous", help="its class numbers")
    add("--gate", choices=["gt", "pred"], default="gt", help="are its classes tags or predictions")
    add("--normalize", choices=["none", "minmax", "max"], default="none", help="by the readers")
    add("--stride", type=int, default=1, help="reduce maps of image size by this (default: keep)")
    add("--missing", choices=["error", "empty"], default="error", help="images without a file")
    add("--part-size", type=int, default=0, help="images of a part, the most that a kill loses")
    add("--overwrite", action="store_true", help="replace what is there")
    add("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args()
    if not args.input.is_dir():
        parser.error(f"--input {args.input} is not a folder with activation maps")
    if args.stride < 1 or args.part_size < 0:
        parser.error("--stride and --part-size must be positive")
    return args


def main(args: argparse.Namespace) -> None:
    """Write the artifact ``cams/``."""
    cfg = setup(args, add_all_configs)
    settings = OfficialCams(
        layout=args.layout,
        channels=args.channels,
        gate=args.gate,
        normalize=args.normalize,
        stride=args.stride,
        missing=args.missing,
    )
    place = Placement(args.output, overwrite=args.overwrite, part_size=args.part_size)
    manifest = import_cams_stage(
        cfg, single_dataset(cfg, args.dataset), args.input, settings, place
    )
    assert manifest is not None  # there is one process, which owes nothing
    print(f"{args.output}: {manifest.counts}")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
