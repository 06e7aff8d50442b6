"""How a command line names a trained detector or segmenter."""

import argparse
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog

from weaksam_d2.artifacts import CategoryMap
from weaksam_d2.engine.cli import ConfigExtension, setup, start_logging
from weaksam_d2.engine.prediction.choice import predictor_from_config, predictor_of_pipeline
from weaksam_d2.engine.prediction.image_predictor import ImagePredictor

__all__ = ["add_predictor_arguments", "build_predictor", "check_predictor_arguments"]


def add_predictor_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that name a pipeline's folder, or the config that a checkpoint was trained by."""
    add = parser.add_argument
    add("--pipeline", type=Path, metavar="DIR", help="output of tools/run_pipeline.py")
    add("--config-file", default="", metavar="FILE", help="else: what a checkpoint was trained by")
    add("--classes", default="", help="class names, comma separated (default: of DATASETS.*)")
    add("--register", action="append", default=[], metavar="MODULE")
    add("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")


def check_predictor_arguments(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Leave with a usage error (exit code 2) where these flags contradict each other."""
    if (args.pipeline is None) == (not args.config_file):
        parser.error("give either --pipeline or --config-file")
    if args.pipeline is not None and (args.classes or args.register):
        parser.error("--classes and --register go with --config-file; a pipeline has its classes")
    if args.pipeline is None and getattr(args, "detector", None):
        parser.error("--detector goes with --pipeline; a config has one model")
    if len(args.opts) % 2:
        parser.error(f"trailing KEY VALUE pairs are incomplete: {' '.join(args.opts)}")


def build_predictor(args: argparse.Namespace, extend: ConfigExtension) -> ImagePredictor:
    """The model that the command line names; ``args.detector`` says which of a pipeline.

    Raises:
        ValueError: no class names; as :func:`predictor_of_pipeline`, :func:`predictor_from_config`.
    """
    if args.pipeline is not None:
        start_logging(None)
        return predictor_of_pipeline(args.pipeline, args.detector, opts=args.opts, extend=extend)
    cfg = setup(args, extend)
    if args.classes:
        names = [name.strip() for name in args.classes.split(",")]
        return predictor_from_config(cfg, categories=CategoryMap(names), name="custom")
    datasets = (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)
    if not datasets:
        raise ValueError("DATASETS.TEST and TRAIN are empty: name the classes by --classes a,b,c")
    metadata = MetadataCatalog.get(datasets[0])
    if metadata.get("thing_classes") is None:
        DatasetCatalog.get(datasets[0])  # some sets say their classes only when they are loaded
    categories = CategoryMap.from_metadata(metadata)
    return predictor_from_config(cfg, categories=categories, name=datasets[0])
