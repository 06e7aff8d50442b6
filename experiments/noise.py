"""When does RoI drop help? Retraining on true boxes with known errors (WeakSAM, Sec. 3.4).

A quarter each of the given share of objects is missing, shifted, cut down to a part, or of a wrong
class. The same detector learns from these boxes without drop, with the absolute thresholds of its
config, and with percentile thresholds; AP50 of the held-out split with bootstrap intervals, the
share of RoIs dropped, and how good the corrupted boxes are.

Examples:
    python experiments/noise.py --json output/noise/scenes.json
    python experiments/noise.py --data datasets/VOC2012 --json output/noise/animals.json

Without --data rendered scenes are used, with it five animals of a folder in VOC layout. --full also
tries each error alone, sweeps the thresholds and takes three seeds (for a GPU). A second call goes
on where a kill stopped the first. Writes JSON, the table as Markdown and a plot. Reads true boxes:
an analysis, no weakly supervised training.
"""

import argparse
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from _retraining import Retraining, Row, ap50_of_seeds
from detectron2.structures import BoxMode

from weaksam_d2.artifacts import PseudoGroundTruth, read_pseudo_gt, write_pseudo_gt
from weaksam_d2.evaluation.box_noise import BoxNoise, corrupt_boxes
from weaksam_d2.pseudo_gt import analyze_pseudo_gt
from weaksam_d2.visualization import Lines, Series, write_plots

PERCENTILE = ("MODEL.ROI_DROP.THRESHOLD", "percentile", "MODEL.ROI_DROP.PERCENTILE")
DROPS: Mapping[str, Sequence[str]] = {
    "no drop": ("MODEL.ROI_DROP.MODE", "off"),
    "RoI drop": (),
    "RoI drop, percentile 95": (*PERCENTILE, "95"),
}
SWEEP: Mapping[str, Sequence[str]] = {
    **{
        f"RoI drop, cls {cls}, reg {reg}": (
            *("MODEL.ROI_DROP.CLS_THRESH", cls, "MODEL.ROI_DROP.REG_THRESH", reg),
        )
        for cls in ("2.0", "3.0", "4.0")
        for reg in ("1.0", "2.0")
    },
    "RoI drop, percentile 90": (*PERCENTILE, "90"),
    "RoI drop, percentile 98": (*PERCENTILE, "98"),
}


class Setting(Retraining):
    """Labels with known errors, and the detectors that learn from them."""

    def labels(self, name: str, noise: BoxNoise, seed: int) -> Path:
        """Corrupted boxes of the training split as pseudo ground truth."""
        path = self.work / "labels" / f"{name}-{seed}" / "pseudo_gt.json"
        if not path.exists():
            rng = np.random.default_rng([seed, zlib.crc32(self.name.encode())])
            entries = self.categories.categories()
            pgt = PseudoGroundTruth([], [], entries, {"weaksam": _info(name, noise, seed)})
            for record in self.records:
                _add(pgt, record, noise, rng)
            write_pseudo_gt(path, pgt)
        return path

    def quality(self, path: Path) -> Row:
        """Precision and recall of corrupted boxes, in percent."""
        found = analyze_pseudo_gt(read_pseudo_gt(path), self.records)
        return {key: round(found[key], 1) for key in ("precision", "recall")}


def _info(name: str, noise: BoxNoise, seed: int) -> Row:
    chances = dict(zip(("missing", "shifted", "part", "wrong"), noise.chances, strict=True))
    parameters = {"noise": name, "seed": seed, **chances}
    return {"rule": "true boxes with noise", "parameters": parameters, "detections_sha256": ""}


def _add(
    pgt: PseudoGroundTruth, record: Mapping[str, Any], noise: BoxNoise, rng: np.random.Generator
) -> None:
    """One image and its corrupted objects; difficult ones are left out, as in training."""
    height, width = record["height"], record["width"]
    rows = [row for row in record["annotations"] if not row.get("difficult", False)]
    boxes, classes = corrupt_boxes(
        np.array([_xyxy(row) for row in rows], np.float32).reshape(-1, 4),
        np.array([row["category_id"] for row in rows], np.int64),
        (height, width),
        noise,
        num_classes=len(pgt.categories),
        rng=rng,
    )
    image_id = record["image_id"]
    file_name = Path(record["file_name"]).name
    image = {"id": image_id, "file_name": file_name, "height": height, "width": width}
    pgt.images.append(image)
    for (x1, y1, x2, y2), label in zip(boxes.tolist(), classes.tolist(), strict=True):
        category = pgt.categories[label]["id"]
        row = {"image_id": image_id, "category_id": category, "bbox": [x1, y1, x2 - x1, y2 - y1]}
        pgt.annotations.append({**row, "score": 1.0, "score_norm": 1.0})


def _xyxy(row: Mapping[str, Any]) -> list[float]:
    return list(BoxMode.convert(row["bbox"], row["bbox_mode"], BoxMode.XYXY_ABS))


def plan(args: argparse.Namespace) -> tuple[dict[str, BoxNoise], Mapping[str, Sequence[str]]]:
    """Noises and drops that are tried."""
    noises = {f"mixed {level:g}": BoxNoise.mixed(level) for level in args.levels}
    if args.full:
        kinds = ("missing", "shifted", "part", "wrong")
        noises |= {f"{kind} 0.3": BoxNoise(**{kind: 0.3}) for kind in kinds}
    return noises, {**DROPS, **SWEEP} if args.full else DROPS


def markdown(rows: Sequence[Row]) -> str:
    """The table; of several seeds the mean, the lowest and the highest run."""
    lines = ["| boxes | precision / recall | drop | fg / bg RoIs dropped (%) | AP50 |"]
    lines.append("|" + "---|" * 5)
    for row in rows:
        runs = list(row["seeds"].values())
        shares = [fmean(run["dropped"][kind] for run in runs) for kind in ("fg", "bg")]
        mean, low, high = ap50_of_seeds(row["seeds"])
        good = row["quality"]
        cells = [row["noise"], f"{good['precision']:.0f} / {good['recall']:.0f}", row["drop"]]
        cells += [
            f"{shares[0]:.1f} / {shares[1]:.1f}",
            f"{mean:.1f} ({low:.1f}–{high:.1f})",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def draw(path: Path, rows: Sequence[Row], levels: Sequence[float]) -> None:
    """AP50 over the level of mixed noise, a line for each drop."""
    series = []
    for drop in dict.fromkeys(row["drop"] for row in rows):
        points = [(row["noise"], row) for row in rows if row["drop"] == drop]
        found = {
            name: fmean(run["AP50"][0] for run in row["seeds"].values()) for name, row in points
        }
        present = [level for level in levels if f"mixed {level:g}" in found]
        series.append(Series(drop, present, [found[f"mixed {level:g}"] for level in present]))
    lines = Lines(series, "share of objects with an error", "AP50", markers=True)
    write_plots(path, [lines], title="Retraining on boxes with known errors")


def main(args: argparse.Namespace) -> None:
    """All runs; the files are written anew after each one."""
    setting = Setting(data=args.data, work=args.json.resolve().parent)
    noises, drops = plan(args)
    rows: list[Row] = []
    for noise_name, noise in noises.items():
        for drop_name, keys in drops.items():
            seeds = {}
            for seed in args.seeds:
                labels = setting.labels(noise_name.replace(" ", ""), noise, seed)
                run = f"{noise_name}-{drop_name}".replace(" ", "").replace(",", "-")
                seeds[str(seed)] = setting.detector(run, labels, keys, seed)
            quality = setting.quality(labels)
            rows.append(
                {"noise": noise_name, "drop": drop_name, "quality": quality, "seeds": seeds}
            )
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
            args.json.with_suffix(".md").write_text(markdown(rows))
            draw(args.json.with_suffix(".svg"), rows, args.levels)
    print(markdown(rows))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="", metavar="DIR", help="folder in VOC layout")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--levels", nargs="+", type=float, default=[0.2, 0.4, 0.6])
    parser.add_argument("--seeds", nargs="+", type=int, default=None)
    parser.add_argument("--full", action="store_true", help="each error, all thresholds, 3 seeds")
    args = parser.parse_args()
    args.seeds = args.seeds or ([42, 43, 44] if args.full else [42])
    return args


if __name__ == "__main__":
    main(parse_args())
