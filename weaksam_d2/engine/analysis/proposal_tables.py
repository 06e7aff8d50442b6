"""Recall of several proposal stores on one data set: what ``tools/evaluate_proposals.py`` does."""

import argparse
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import ProposalStore
from weaksam_d2.engine.cli import stage_argument_parser
from weaksam_d2.engine.dataset_choice import annotated_records
from weaksam_d2.evaluation import (
    RecallSettings,
    StoreView,
    counted_objects,
    first_boxes,
    measure_views,
    recall_table,
    source_views,
)
from weaksam_d2.visualization import PLOT_FORMATS, Lines, Series, write_plots

__all__ = [
    "choose_records",
    "compare_stores",
    "finish_store_flags",
    "open_stores",
    "plot_recall",
    "rounded",
    "store_paths",
    "stores_argument_parser",
    "whole_views",
]

logger = logging.getLogger(__name__)
Records = Sequence[Mapping[str, Any]]


def stores_argument_parser(description: str) -> argparse.ArgumentParser:
    """The flags of tools that read several proposal stores of one data set.

    As `stage_argument_parser`, but ``--input`` takes NAME=PATH (or paths) and may be repeated.
    """
    parser = argparse.ArgumentParser(
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        parents=[stage_argument_parser(description)],
        conflict_handler="resolve",
    )
    parser.add_argument(
        "--input",
        nargs="+",
        action="extend",
        required=True,
        metavar="[NAME=]FOLDER",
        help="proposals/ of the same images, our own first; may be repeated",
    )
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    parser.add_argument("--ids", type=Path, metavar="FILE", help="only these images, one id a line")
    parser.add_argument(
        "--equal-count",
        action="store_true",
        help="others also with the first boxes of an image, as many as the first store has there",
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="default: --output as .svg")
    return parser


def finish_store_flags(parser: argparse.ArgumentParser, args: argparse.Namespace) -> None:
    """Make ``--input`` folders by name, find the plot's name; wrong usage ends the program."""
    args.input = store_paths(parser, args.input)
    args.plot = args.plot or args.output.with_suffix(".svg")
    if args.plot.suffix not in PLOT_FORMATS:
        parser.error(f"--plot {args.plot}: expected a file of {', '.join(PLOT_FORMATS)}")
    for path in (args.output, args.plot):
        if path.exists() and not args.overwrite:
            parser.error(f"{path} exists; replace it with --overwrite")


def store_paths(
    parser: argparse.ArgumentParser, values: Sequence[str], *, files: bool = False
) -> dict[str, Path]:
    """Folders of ``--input`` by name; without ``NAME=`` it is that of the folder.

    ``files``: other artifacts than stores are welcome, which may be files.
    """
    there = Path.exists if files else Path.is_dir
    paths: dict[str, Path] = {}
    for value in values:
        name, sign, folder = value.partition("=")
        if not sign or there(Path(value)):  # a folder may have an equals sign in its own name
            name, folder = Path(value).resolve().name, value
        if not there(Path(folder)):
            expected = "does not exist" if files else "is not a folder with proposals"
            parser.error(f"--input {value}: {folder} {expected}")
        if not name or name in paths:
            parser.error(f"--input {value}: give each input a name of its own, NAME=PATH")
        paths[name] = Path(folder)
    return paths


def open_stores(paths: Mapping[str, Path], *, check: bool = False) -> dict[str, ProposalStore]:
    """Open stores by name; ``check`` looks at every box and raises ValueError for bad ones."""
    stores = {name: ProposalStore.open(path) for name, path in paths.items()}
    for name, store in stores.items() if check else ():
        problems = store.check()
        if problems:
            raise ValueError("\n".join([f"{paths[name]} has bad proposals", *problems]))
    return stores


def choose_records(records: Records, ids_file: Path | None) -> list[Mapping[str, Any]]:
    """The records whose image id a file lists, one id a line, in the order of the data set.

    Raises:
        ValueError: a line of several words, an id that is listed twice or that is not there.
    """
    if ids_file is None:
        return list(records)
    lines = [line.strip() for line in ids_file.read_text(encoding="utf-8").splitlines()]
    ids = [line for line in lines if line]
    for place, image_id in enumerate(ids, start=1):
        if len(image_id.split()) > 1:
            raise ValueError(f"{ids_file}: entry {place} is {image_id!r}, expected one image id")
    if len(set(ids)) < len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise ValueError(f"{ids_file} lists image {twice!r} more than once")
    missing = sorted(set(ids) - {str(record["image_id"]) for record in records})
    if missing or not ids:
        raise ValueError(
            f"{ids_file} lists {len(ids)} images, {len(missing)} of them are not in the data set "
            f"(the first: {missing[:3]})"
        )
    wanted = set(ids)
    return [record for record in records if str(record["image_id"]) in wanted]


def compare_stores(
    stores: Mapping[str, ProposalStore],
    dataset: str,
    cfg: Any,
    *,
    ids_file: Path | None = None,
    by_source: bool = False,
    equal_count: bool = False,
    difficult: bool = True,
) -> tuple[dict[str, dict[str, Any]], RecallSettings, dict[str, Any]]:
    """Recall table of stores on the annotated twin of a weak data set.

    Returns the table (`recall_table`), its settings, and facts about what was counted.

    Raises:
        ValueError: a data set without true boxes. KeyError: an image that a store has not.
    """
    records = annotated_records(dataset)
    if not records:
        raise ValueError(
            f"data set {dataset} has no annotated twin; set evaluation_name in its metadata "
            f"(now {MetadataCatalog.get(dataset).get('evaluation_name', '')!r})"
        )
    chosen = choose_records(records, ids_file)
    ids = [str(record["image_id"]) for record in chosen]
    truth = counted_objects(chosen, difficult=difficult)
    objects = sum(len(one.boxes) for one in truth)
    if not objects:
        logger.warning("the images of %s have no object: recall is not defined", dataset)
    settings = RecallSettings(
        ious=tuple(cfg.TEST.RECALL_IOUS),
        class_names=tuple(MetadataCatalog.get(dataset).get("thing_classes", ())),
        resamples=cfg.TEST.BOOTSTRAP,
    )
    views = whole_views(stores, ids, equal_count=equal_count)
    views += _source_views(stores, ids) if by_source else []
    table = recall_table(measure_views(views, truth, ids, settings), truth, settings)
    facts = {
        "dataset": dataset,
        "images": len(ids),
        "objects": objects,
        "difficult_objects": "included" if difficult else "excluded",
        "resamples": settings.resamples,
    }
    return table, settings, facts


def whole_views(
    stores: Mapping[str, ProposalStore], ids: Sequence[str], *, equal_count: bool = False
) -> list[StoreView]:
    """All boxes of each store; with ``equal_count`` also the first ones of all but the first."""
    whole = [StoreView(name, store) for name, store in stores.items()]
    if not equal_count:
        return whole
    equal = [first_boxes(f"{one.name}, equal count", one, whole[0], ids) for one in whole[1:]]
    return whole + equal


def _source_views(stores: Mapping[str, ProposalStore], ids: Sequence[str]) -> list[StoreView]:
    views: list[StoreView] = []
    for place, (name, store) in enumerate(stores.items()):
        # A method of one source, such as Selective Search, has nothing to divide.
        if place == 0 or len(store.source_names) > 1:
            views += source_views(StoreView(name if len(stores) > 1 else "", store), ids)
    return views


def rounded(value: Any, *, digits: int = 2) -> Any:
    """Figures with few decimals, for JSON; one that is not defined (no object) is left out."""
    if isinstance(value, Mapping):
        inner = {key: rounded(one, digits=digits) for key, one in value.items()}
        return {key: one for key, one in inner.items() if one is not None}
    if isinstance(value, list):
        items = [rounded(one, digits=digits) for one in value]
        return None if None in items else items
    if isinstance(value, float):
        return round(value, digits) if math.isfinite(value) else None
    return value


def plot_recall(path: Path, table: Mapping[str, Mapping[str, Any]], *, title: str) -> None:
    """Recall over IoU and over the number of boxes, and at IoU .5 by size and by class."""
    first = next(iter(table.values()))
    key = next(iter(first["curves"]["count"]))
    iou = [
        Series(n, f["curves"]["iou"]["iou"], f["curves"]["iou"]["recall"]) for n, f in table.items()
    ]
    count = [
        Series(name, one["curves"]["count"][key]["count"], one["curves"]["count"][key]["recall"])
        for name, one in table.items()
    ]
    at = f"recall at IoU {int(key.removeprefix('recall')) / 100:g} (%)"
    common: dict[str, Any] = {"y_range": (0, 100), "y_label": at, "markers": True}
    panels = [
        Lines(iou, "IoU", "recall (%)", y_range=(0, 100)),
        Lines(count, "proposals for each image", log_x=True, **common),
        _groups(table, "by_relative_size", f"{key}_", "size of the object in its image", common),
    ]
    if first["by_class"]:
        panels.append(_groups(table, "by_class", f"{key}-", "class", common))
    write_plots(path, panels, title=title)


def _groups(
    table: Mapping[str, Mapping[str, Any]],
    section: str,
    prefix: str,
    x_label: str,
    common: Mapping[str, Any],
) -> Lines:
    names = [k for k in next(iter(table.values()))[section] if k.startswith(prefix)]
    series = [
        Series(name, list(range(len(names))), [figures[section][key] for key in names])
        for name, figures in table.items()
    ]
    return Lines(series, x_label, x_names=[name.removeprefix(prefix) for name in names], **common)
