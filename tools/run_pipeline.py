"""Run the whole road: tags → maps → prompts → proposals → weak detector → labels → detector.

Example:
    python tools/run_pipeline.py --config-file configs/pipelines/scenes_demo.yaml \
        --output output/demo --set wsod.SOLVER.MAX_ITER 500 SEED 3

With PIPELINE.SEGMENTER_CONFIG the road ends at a segmenter: maps, SAM masks → pseudo labels → it.

A second run skips what is done; a changed setting redoes what depends on it and says why.
"""

import argparse
from pathlib import Path

from weaksam_d2.engine.cli import prepare_process, run_command, start_logging
from weaksam_d2.engine.pipeline.base import PipelineSettings
from weaksam_d2.engine.pipeline.choice import open_pipeline
from weaksam_d2.projects import add_all_configs


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", type=Path, required=True, metavar="FILE")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--stages", default="", help="only these, comma separated")
    parser.add_argument("--num-images", type=int, default=0, help="rehearse on so many images")
    parser.add_argument("--overwrite", action="store_true", help="do the asked stages again")
    parser.add_argument(
        "--set",
        nargs=2,
        action="append",
        default=[],
        metavar=("STAGE.KEY", "VALUE"),
        help="a key of one trained stage: classifier, wsod, retrain, masks; or baseline, segment",
    )
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    args = parser.parse_args()
    if not args.config_file.is_file():
        parser.error(f"--config-file {args.config_file} does not exist")
    if len(args.opts) % 2:
        parser.error(f"trailing KEY VALUE pairs are incomplete: {' '.join(args.opts)}")
    return args


def main(args: argparse.Namespace) -> None:
    """Run the asked stages."""
    stage_opts: dict[str, list[str]] = {}
    for name, value in args.set:
        stage, _, key = name.partition(".")
        if not stage or not key:
            raise ValueError(f"--set {name}: expected STAGE.KEY, such as wsod.SOLVER.MAX_ITER")
        stage_opts.setdefault(stage, []).extend([key, value])
    start_logging(args.output)
    open_pipeline(
        PipelineSettings(
            config_file=args.config_file,
            output=args.output,
            opts=args.opts,
            stage_opts=stage_opts,
            stages=[name for name in args.stages.split(",") if name],
            num_images=args.num_images,
            overwrite=args.overwrite,
            extend_config=add_all_configs,
        )
    ).run()


if __name__ == "__main__":
    arguments = parse_args()
    prepare_process()
    run_command(lambda: main(arguments))
