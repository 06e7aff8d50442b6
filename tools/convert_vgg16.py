"""ImageNet weights of VGG16, as torchvision or Caffe stores them, for MODEL.WEIGHTS.

Examples:
    python tools/convert_vgg16.py --input vgg16-397923af.pth --output vgg16_torchvision.pth
    # Weights of Caffe, saved under torchvision's names: say which pixels they were trained on
    python tools/convert_vgg16.py --input vgg16_caffe.pth --pixels caffe --output vgg16_caffe_d2.pth

Names of torchvision (features.0.weight, classifier.0.weight), Caffe (conv1_1.weight, fc6.weight)
and Caffe2 (conv1_1_w, fc6_w) are known, in .pth, .npz, .npy and .pkl files. The last layer is left
out. A wrong mean or order of channels costs accuracy without a word, so the lines of a config that
fit the weights are printed, and kept in the file.
"""

import argparse
from pathlib import Path

from weaksam_d2.backbones import PIXEL_CONVENTIONS, save_vgg16
from weaksam_d2.engine.cli import run_command


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, help="published file")
    add("--output", type=Path, required=True, help=".pth file to write")
    add("--pixels", choices=["auto", *PIXEL_CONVENTIONS], default="auto", help="its training's")
    add("--allow-pickle", action="store_true", help="read .npy and .pkl, which may run any code")
    add("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args()
    if args.output.suffix != ".pth":
        parser.error(f"--output {args.output} must end in .pth")
    if args.output.exists() and not args.overwrite:
        parser.error(f"--output {args.output} exists; replace it with --overwrite")
    return args


def main(args: argparse.Namespace) -> None:
    """Convert, and say what a config needs."""
    pixels = save_vgg16(args.output, args.input, pixels=args.pixels, allow_pickle=args.allow_pickle)
    print(f"# weights of {args.input.name}, pixels: {pixels}")
    print(PIXEL_CONVENTIONS[pixels].config_lines(args.output), end="")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
