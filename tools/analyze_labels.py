"""Why SEPL made labels worse: classes of images that lost IoU, by reason, and the worst pictures.

Example:
    python tools/analyze_labels.py --config-file projects/SEPL/configs/sepl_voc12.yaml \
        --before output/labels --after output/sepl --masks output/sam_masks \
        --dataset voc_2012_seg_train_weak --output output/sepl_falls

Compares both folders of labels with the true ones (the data set needs a twin that has them). A
class of an image whose IoU fell by more than a point has the first of these reasons that fits: its
seed was wrong; a mask that SEPL kept for it holds the object and much else; SAM has no mask of the
object; other. Kept masks are found again by the config's SEPL.* keys, which must be those of
--after. OUTPUT gets falls.json and a picture of each of the --worst images: image, labels before,
SAM's masks, labels after, true labels. No training stage reads them.
"""

import argparse
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from PIL import Image
from tabulate import tabulate
from weaksam_d2.projects.sepl import MaskSet, build_sepl_settings
from weaksam_d2.projects.sepl.enhance import tagged_seed
from weaksam_d2.projects.sepl.failures import KINDS, LabelFall, find_falls, worst_images
from weaksam_d2.projects.sepl.label_source import open_masks, open_seed, tags_of

from weaksam_d2.artifacts import LabelSpace, atomic_folder, label_file_name, write_json
from weaksam_d2.data import read_image, weak_records
from weaksam_d2.engine.analysis.artifact_pictures import side_by_side
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.dataset_choice import single_dataset
from weaksam_d2.evaluation.label_truth import truth_reader
from weaksam_d2.projects import add_all_configs
from weaksam_d2.visualization import draw_boxes, draw_labels, draw_mask_set


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--before", type=Path, required=True, help="labels", metavar="DIR")
    parser.add_argument("--after", type=Path, required=True, help="labels", metavar="DIR")
    parser.add_argument("--masks", type=Path, required=True, help="a store of masks", metavar="DIR")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--dataset", default="", help="default: the only one of DATASETS.TRAIN")
    parser.add_argument("--worst", type=int, default=5, help="images that are drawn")
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--register", action="append", default=[], metavar="MODULE")
    parser.add_argument("opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE")
    return parser.parse_args()


class Comparison:
    """Both labels, the masks and the truth of a data set, image by image."""

    def __init__(self, cfg: Any, dataset: str, args: argparse.Namespace) -> None:
        space = LabelSpace.from_metadata(dataset, MetadataCatalog.get(dataset))
        self.settings = build_sepl_settings(cfg)
        self.before = open_seed(args.before, space)
        self.after = open_seed(args.after, space)
        self.masks = open_masks(args.masks)
        self.truth = truth_reader(dataset)
        known = set(self.truth.image_ids)
        self.records = {str(r["image_id"]): r for r in weak_records(dataset)}
        self.records = {key: r for key, r in self.records.items() if key in known}

    def falls(self) -> Iterator[LabelFall]:
        """Every class of every image that lost IoU."""
        for image_id, record in self.records.items():
            seed, _ = tagged_seed(self.before[image_id], tags_of(self.before, record))
            after, masks = self.after[image_id], MaskSet.of(self.masks[image_id])
            yield from find_falls(image_id, self.truth(image_id), seed, after, masks, self.settings)

    def picture(self, image_id: str) -> np.ndarray:
        """The panels of an image in a row."""
        image, space = read_image(self.records[image_id]["file_name"]), self.before.space
        none = np.zeros((0, 4))
        masks = draw_mask_set(image, self.masks[image_id])
        panels = {
            "image": draw_boxes(image, none, colors=[]),
            "before": draw_labels(image, self.before[image_id], space),
            "masks": draw_boxes(masks, none, colors=[]),
            "after": draw_labels(image, self.after[image_id], space),
            "truth": draw_labels(image, self.truth(image_id), space),
        }
        return side_by_side(panels)


def tables(falls: list[LabelFall], classes: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """How often each reason occurs, for each class that fell and for all."""
    rows: dict[str, Mapping[str, int]] = {}
    for label in sorted({fall.label for fall in falls}):
        rows[classes[label]] = Counter(fall.kind for fall in falls if fall.label == label)
    rows["all"] = Counter(fall.kind for fall in falls)
    return {name: {kind: row.get(kind, 0) for kind in KINDS} for name, row in rows.items()}


def main(args: argparse.Namespace) -> None:
    """Print the table; write it, each fall, and the pictures."""
    cfg = setup(args, add_all_configs)
    dataset = single_dataset(cfg, args.dataset)
    comparison = Comparison(cfg, dataset, args)
    falls, classes = list(comparison.falls()), comparison.before.space.classes
    counts, worst = tables(falls, classes), worst_images(falls, args.worst)
    rows = [
        {
            **{"image_id": fall.image_id, "class": classes[fall.label], "kind": fall.kind},
            **{"before": round(100 * fall.before, 2), "after": round(100 * fall.after, 2)},
        }
        for fall in sorted(falls, key=lambda fall: -fall.fall)
    ]
    facts = {"dataset": dataset, "images": len(comparison.records), "worst": worst}
    with atomic_folder(args.output, overwrite=args.overwrite) as folder:
        write_json(folder / "falls.json", {**facts, "counts": counts, "falls": rows})
        for rank, image_id in enumerate(worst, start=1):
            picture = Image.fromarray(comparison.picture(image_id))
            picture.save(folder / f"{rank}_{label_file_name(image_id)}")
    print(tabulate([[name, *row.values()] for name, row in counts.items()], ["class", *KINDS]))
    print(f"{len(falls)} falls in {len(comparison.records)} images; {args.output / 'falls.json'}")


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
