"""Fetch the public weights that BoxSAM is made of, once, where there is a connection.

Example:
    python tools/download_boxsam.py
    python tools/download_boxsam.py --only detector --output weights/hub

Prints a line "<part> <model>: <folder>" for each. Without --output they go to the hub's cache
($HF_HUB_CACHE, else ~/.cache/huggingface/hub), where they are found by their names. A folder copied
elsewhere is named in the config: BOXSAM.TAGGER.CLIP, BOXSAM.DETECTOR.MODEL, and WEAKSAM.SAM.WEIGHTS
with WEAKSAM.SAM.BACKEND SAMTransformers. SAM's default backend fetches its own file and needs no
segmenter from here.
"""

import argparse
from pathlib import Path

from weaksam_d2.projects.boxsam.hub import PUBLIC_MODELS, hub_folder

from weaksam_d2.engine.cli import run_command


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=sorted(PUBLIC_MODELS), metavar="PART")
    parser.add_argument("--output", type=Path, metavar="DIR", help="another folder as the cache")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    """Download the models; exit code 1, with what to do, where there is no connection."""
    for part in args.only or PUBLIC_MODELS:
        model = PUBLIC_MODELS[part]
        print(f"{part} {model}: {hub_folder(model, cache=args.output)}")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
