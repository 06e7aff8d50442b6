"""Detect objects in images, folders and videos, or label their pixels, by a trained model.

Examples:
    # What a pipeline led to, on a folder and a video: its retrained detector, or its segmenter
    python tools/predict.py --pipeline output/animals --input photos holiday.mp4 \
        --output output/predicted
    # Its weakly supervised detector: maps, prompts and SAM proposals are made for each image
    python tools/predict.py --pipeline output/animals --detector wsod --input photos \
        --output output/predicted_wsod --score-thresh 0.1
    # A segmenter through several views of each image
    python tools/predict.py --pipeline output/sepl --input photos --output output/labeled \
        TEST.SEM_SEG_SCALES "(0.75, 1.0, 1.25)" TEST.SEM_SEG_FLIP True
    # Any checkpoint of train_net.py
    python tools/predict.py --input photos --output output/predicted \
        --config-file configs/PascalVOC-Detection/faster_rcnn_R_50_FPN_roi_drop_1x.yaml \
        MODEL.WEIGHTS output/retrain/model_final.pth

Of a detector, OUTPUT/detections.json is a COCO results list, detections.csv the same as a table,
and pictures/ shows the boxes that score at least --score-thresh. Of a segmenter, OUTPUT is an
artifact of label images (labels/, labels.json) as evaluate_labels.py and export_labels.py take it,
labels.csv has the pixels of each class, and pictures/ shows the classes tinted. images.json names
images and categories. Frame n of a video v is the image v/00000n. A second run goes on where the
first one stopped, image by image. A file that cannot be read is named (and listed in
failures.json), the others are done, and the exit code is 1.
"""

import argparse
from pathlib import Path

from weaksam_d2.engine.cli import prepare_process, run_command
from weaksam_d2.engine.pipeline.stored_config import MODELS
from weaksam_d2.engine.prediction.prediction import PredictionFolder, find_sources, predict_all
from weaksam_d2.engine.prediction.predictor_arguments import (
    add_predictor_arguments,
    build_predictor,
    check_predictor_arguments,
)
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, nargs="+", required=True, help="images, videos, folders of both")
    add("--output", type=Path, required=True, help="folder to write, or to go on with")
    add(
        "--detector",
        choices=MODELS,
        default="",
        help="which model of the pipeline (default: the segmenter or detector that it led to)",
    )
    add("--score-thresh", type=float, help="of boxes in pictures (default: 0.5)")
    add("--no-pictures", action="store_true", help="write the files only")
    add_predictor_arguments(parser)
    args = parser.parse_args()
    check_predictor_arguments(parser, args)
    return args


def main(args: argparse.Namespace) -> None:
    """Predict every input."""
    sources = find_sources(args.input)
    predictor = build_predictor(args, add_all_configs)
    kind = predictor.kind(score_thresh=args.score_thresh)
    folder = PredictionFolder(args.output, predictor.identity, kind, pictures=not args.no_pictures)
    failures = predict_all(sources, folder, predictor)
    counts = folder.finish(sources)
    print(f"{args.output}: {counts[kind.counted]} {kind.counted} in {counts['images']} images")
    if failures:
        raise ValueError(
            f"{len(failures)} of {len(sources)} inputs could not be read: {', '.join(failures)}; "
            f"the others are in {args.output}"
        )


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: main(arguments))
