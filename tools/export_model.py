"""Export a retrained detector to TorchScript, which runs without this package and detectron2.

Example:
    python tools/export_model.py --pipeline output/animals --input photos \
        --output output/animals_detector.ts
    python tools/export_model.py \
        --config-file configs/PascalVOC-Detection/faster_rcnn_R_50_FPN_roi_drop_1x.yaml \
        --input photos --output detector.ts MODEL.WEIGHTS output/retrain/model_final.pth

The detector is traced on the first image of --input; the file is read back and compared with the
original on --num-images of them (different sizes are worth more than many). The table shows the
largest differences; above --box-tolerance or --score-tolerance no file is written and the exit
code is 1. OUTPUT.json beside the file says what it takes and gives:

    detector = torch.jit.load("detector.ts")          # import torchvision first, for NMS
    boxes, scores, classes = detector(image)          # image: (3, H, W), 0 to 255
"""

import argparse
from pathlib import Path

import torch

from weaksam_d2.artifacts import sha256_file, write_json
from weaksam_d2.data import read_image
from weaksam_d2.engine.cli import prepare_process, run_command, start_logging
from weaksam_d2.engine.pipeline.report import evenly
from weaksam_d2.engine.prediction.export import OUTPUTS, difference_table, export_torchscript
from weaksam_d2.engine.prediction.image_predictor import ImagePredictor
from weaksam_d2.engine.prediction.prediction import find_sources
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
    add("--input", type=Path, nargs="+", required=True, help="images, or folders of them")
    add("--output", type=Path, required=True, help="file to write")
    add("--num-images", type=int, default=5, help="compared, evenly spread over the input")
    add("--box-tolerance", type=float, default=0.01, help="pixels of the network's input")
    add("--score-tolerance", type=float, default=1e-4)
    add_predictor_arguments(parser)
    args = parser.parse_args()
    check_predictor_arguments(parser, args)
    args.detector = "retrain"
    if args.num_images < 1:
        parser.error("--num-images must be above 0")
    return args


def describe(predictor: ImagePredictor, args: argparse.Namespace) -> dict[str, object]:
    """What a user of the file must know."""
    masks = getattr(predictor.model, "roi_heads", None)
    count = 4 if getattr(masks, "mask_on", False) else 3
    return {
        "sha256": sha256_file(args.output),
        "input": {
            "channels": predictor.input_format,
            "values": "0 to 255, uint8 or float32, (3, height, width)",
            **predictor.test_size,
        },
        "outputs": list(OUTPUTS[:count]),
        "boxes": "XYXY in pixels of the input",
        "categories": predictor.categories.categories(),
        "weights_sha256": predictor.identity["weights"],
        "torch": torch.__version__,
    }


def main(args: argparse.Namespace) -> None:
    """Trace, compare, write."""
    start_logging(None)
    images = [source for source in find_sources(args.input) if not source.is_video]
    if not images:
        raise ValueError("--input holds videos only; at least one image is needed")
    predictor = build_predictor(args, add_all_configs)
    samples = {
        source.name: predictor.sample(read_image(source.path))["image"]
        for source in evenly(images, args.num_images)
    }
    found = export_torchscript(
        predictor.model,
        samples,
        args.output,
        box_tolerance=args.box_tolerance,
        score_tolerance=args.score_tolerance,
    )
    write_json(args.output.with_name(args.output.name + ".json"), describe(predictor, args))
    print(difference_table(found))
    print(f"{args.output}: {args.output.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: main(arguments))
