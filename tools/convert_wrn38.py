"""ImageNet weights of WRN-38, as MXNet stores them, for MODEL.WRN38.WEIGHTS.

Example:
    python tools/convert_wrn38.py --input ilsvrc-cls_rna-a1_cls1000_ep-0001.params \
        --output wrn38_imagenet.pth

Reading the file needs the package mxnet. A .pth file that somebody converted before, with the names
conv1a.weight, b2.bn_branch2a.weight and so on, needs no conversion.
"""

import argparse
import importlib
from pathlib import Path

import torch

from weaksam_d2.artifacts import atomic_write
from weaksam_d2.backbones import wrn38_state
from weaksam_d2.engine.cli import run_command


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--input", type=Path, required=True, help="published .params file")
    add("--output", type=Path, required=True, help=".pth file to write")
    add("--overwrite", action="store_true", help="replace what is there")
    args = parser.parse_args()
    if args.output.suffix != ".pth":
        parser.error(f"--output {args.output} must end in .pth")
    if args.output.exists() and not args.overwrite:
        parser.error(f"--output {args.output} exists; replace it with --overwrite")
    return args


def read_mxnet(path: Path) -> dict[str, torch.Tensor]:
    """The arrays of an MXNet file by their names.

    Raises:
        FileNotFoundError: no such file. ValueError: mxnet is not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"--input '{path}' does not exist")
    try:
        mxnet = importlib.import_module("mxnet")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"reading '{path}' needs the package mxnet: install it (pip install mxnet), in an "
            "environment of its own if this one is too new for it"
        ) from error
    return {name: torch.from_numpy(array.asnumpy()) for name, array in mxnet.nd.load(path).items()}


def main(args: argparse.Namespace) -> None:
    """Convert, and say what a config needs."""
    state = wrn38_state(read_mxnet(args.input))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(args.output) as temporary:
        torch.save(state, temporary)
    print(f"{len(state)} parameters of {args.input.name}: MODEL.WRN38.WEIGHTS {args.output}")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
