"""Detections for an evaluation server: PASCAL VOC's folder of text files, or COCO test-dev's JSON.

Examples:
    python tools/export_detections.py --config-file configs/PascalVOC-Detection/mist_V_16_1x.yaml \
        --input output/mist/inference/voc_2012_test_weak/detections.json \
        --dataset voc_2012_test_weak --format voc --competition comp4 --output output/voc12 \
        --archive output/voc12.tar.gz
    python tools/export_detections.py --config-file my_coco.yaml --input detections.json \
        --dataset coco_2017_test-dev_weak --format coco --task segm --name mine \
        --output output/coco --archive output/detections_test-dev2017_mine_results.zip

VOC: OUTPUT/results/VOC2012/Main/comp3_det_test_<class>.txt for every class of the data set (comp3:
trained on VOC alone; comp4: on any other data too, which includes networks trained on ImageNet).
COCO: OUTPUT/detections_test-dev2017_<name>_results.json. Numbers keep full precision.
"""

import argparse
from pathlib import Path

from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import CategoryMap, atomic_folder, read_detections
from weaksam_d2.data import weak_records
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.evaluation.submission import (
    coco_results_name,
    write_archive,
    write_coco_results,
    write_voc_results,
)
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="for DATASETS.* that name data sets")
    add("--register", action="append", default=[], metavar="MODULE")
    add("--input", type=Path, required=True, help="detections.json")
    add("--output", type=Path, required=True, help="folder to write")
    add("--format", required=True, choices=["voc", "coco"])
    add("--dataset", default="", help="weak data set that was detected on")
    add("--competition", default="comp3", choices=["comp3", "comp4"], help="VOC: which track")
    add("--year", type=int, default=2012, help="VOC: year of the server's folder")
    add("--image-set", default="", help="VOC: test; COCO: test-dev2017")
    add("--task", default="bbox", choices=["bbox", "segm"], help="COCO: boxes or masks")
    add("--name", default="weaksam", help="COCO: name of the algorithm")
    add("--archive", type=Path, help="also pack it: .tar.gz (VOC), .zip (COCO)")
    add("--overwrite", action="store_true", help="replace what is there")
    add("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Read the detections and write them in the layout that was asked for."""
    cfg = setup(args, add_all_configs)
    detections = read_detections(args.input)
    with atomic_folder(args.output, overwrite=args.overwrite) as folder:
        if args.format == "voc":
            dataset = single_dataset(cfg, args.dataset)
            write_voc_results(
                folder,
                detections,
                CategoryMap.from_metadata(MetadataCatalog.get(dataset)),
                image_ids=[str(record["image_id"]) for record in weak_records(dataset)],
                competition=args.competition,
                year=args.year,
                image_set=args.image_set or "test",
            )
        else:
            name = coco_results_name(args.name, image_set=args.image_set or "test-dev2017")
            write_coco_results(folder / name, detections, task=args.task)
    if args.archive is not None:
        write_archive(args.archive, args.output)
    print(f"{args.output}: {len(detections)} detections")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
