"""Label images in colors, for people or for PASCAL VOC's evaluation server.

Examples:
    # preview/<image id>.png of every image, in VOC's colors
    python tools/export_labels.py --input output/labels --format preview --output output/preview
    # results/VOC2012/Segmentation/comp6_test_cls/<image id>.png, and a file to upload
    python tools/export_labels.py --input output/segmenter/labels --format voc \
        --dataset voc_2012_test_weak --output output/voc12 --archive output/voc12.tar.gz

INPUT is a folder of generate_labels.py, or any folder of <image id>.png whose values are label ids;
then --dataset says which classes they mean. With --dataset its images are written, and must all be
there; else those of the folder.
"""

import argparse
from pathlib import Path

from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import MASK_ENCODINGS, LabelSpace, atomic_folder, open_label_folder
from weaksam_d2.data import weak_records
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.evaluation.label_submission import write_previews, write_voc_segmentation
from weaksam_d2.evaluation.submission import write_archive
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="for DATASETS.* that name data sets")
    add("--register", action="append", default=[], metavar="MODULE")
    add("--input", type=Path, required=True, help="folder of label images")
    add("--output", type=Path, required=True, help="folder to write")
    add("--format", default="preview", choices=["preview", "voc"])
    add("--dataset", default="", help="weak data set whose images are written")
    add("--encoding", default="labels", choices=MASK_ENCODINGS, help="values of a foreign folder")
    add("--competition", default="comp6", choices=["comp5", "comp6"], help="VOC: which track")
    add("--year", type=int, default=2012, help="VOC: year of the server's folder")
    add("--image-set", default="test", help="VOC: name of the server's set")
    add("--ignored", default="error", choices=["error", "background"], help="VOC: pixels of 255")
    add("--archive", type=Path, help="also pack it: .tar.gz or .zip")
    add("--overwrite", action="store_true", help="replace what is there")
    add("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Read the labels and write them in the layout that was asked for."""
    setup(args, add_all_configs)
    space = None
    if args.dataset:
        space = LabelSpace.from_metadata(args.dataset, MetadataCatalog.get(args.dataset))
    labels = open_label_folder(args.input, space, encoding=args.encoding)
    image_ids = labels.image_ids
    if args.dataset:
        image_ids = [str(record["image_id"]) for record in weak_records(args.dataset)]
    with atomic_folder(args.output, overwrite=args.overwrite) as folder:
        if args.format == "voc":
            write_voc_segmentation(
                folder,
                labels,
                image_ids,
                competition=args.competition,
                year=args.year,
                image_set=args.image_set,
                ignored=args.ignored,
            )
        else:
            write_previews(folder, labels, image_ids)
    if args.archive is not None:
        write_archive(args.archive, args.output)
    print(f"{args.output}: {len(image_ids)} label images")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
