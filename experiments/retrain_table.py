"""Which pseudo boxes and which RoI drop a detector learns best from (WeakSAM, Tables 5 and 7).

From the detections of one weak detector on its tagged training images: top-1 boxes, fixed score
thresholds and adaptive generation (Algorithm 2), each learned by the same Faster R-CNN without
drop; adaptive boxes with RoI drop; then RoI drop over the paper's grid of thresholds; and the same
detector on the true boxes, of whose AP50 each row reaches a share. Precision and recall of the
boxes, share of (image, tag) pairs and of objects (IoU .5) that have none, AP50 of the test split
with a 95 % bootstrap interval.

Example:
    make real DATA=datasets/VOC2012       # trains the weak detector
    python experiments/retrain_table.py --data datasets/VOC2012 --json output/retrain/table.json \
        --detections output/real/wsod/inference/animals_train_weak/detections.json

A second call goes on where a kill stopped the first. Writes JSON and, beside it, the table as
Markdown. The true boxes are read for the last row and for judging, never for a weak row.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from _retraining import Row, ap50_of_seeds
from noise import Setting

from weaksam_d2.artifacts import read_json, sha256_file, write_json
from weaksam_d2.evaluation.box_noise import BoxNoise

RULES: Mapping[str, Sequence[object]] = {
    "top-1": ("WEAKSAM.PSEUDO_GT.RULE", "top1"),
    **{
        f"threshold {least}": (
            *("WEAKSAM.PSEUDO_GT.RULE", "threshold", "WEAKSAM.PSEUDO_GT.THRESHOLD", least),
        )
        for least in (0.1, 0.3, 0.5)
    },
    "adaptive": ("WEAKSAM.PSEUDO_GT.RULE", "adaptive"),
}
NO_DROP = ("MODEL.ROI_DROP.MODE", "off")
GRID = [(cls, reg) for reg in (0.8, 1.0, 1.2) for cls in (3.0, 4.0, 5.0)]  # Table 7's values
TRUE = "true boxes"


def thresholds(cls: float, reg: float) -> list[str]:
    """The settings of RoI drop with these thresholds."""
    return ["MODEL.ROI_DROP.CLS_THRESH", str(cls), "MODEL.ROI_DROP.REG_THRESH", str(reg)]


class Labels:
    """Pseudo boxes by each rule, and how good they are."""

    def __init__(self, setting: Setting, detections: Path) -> None:
        self.setting = setting
        self.detections = detections.resolve()
        seen = setting.work / "detections.json"
        found = sha256_file(self.detections)
        if not seen.exists():
            write_json(seen, found)
        elif read_json(seen) != found:
            raise ValueError(
                f"{setting.work} has figures of other detections than {self.detections}; name "
                "another folder in --json"
            )

    def of(self, rule: str) -> Path:
        """The file of one rule's boxes."""
        if rule == TRUE:
            return self.setting.labels("true", BoxNoise(), 0)
        folder = self.setting.work / "labels" / rule.replace(" ", "")
        if not (folder / "pseudo_gt.json").exists():
            flags = ["--config-file", self.setting.config, "--detections", self.detections]
            keys = [*self.setting.keys, *RULES[rule]]
            self.setting.tool("generate_pseudo_gt.py", *flags, "--output", folder, *keys)
        return folder / "pseudo_gt.json"

    def quality(self, rule: str) -> Row:
        """Boxes of an image, precision, recall; percent of pairs and objects without a box."""
        path = self.of(rule)
        figures = self.setting.quality(path)
        pairs = {
            (str(record["image_id"]), row["category_id"])
            for record in self.setting.records
            for row in record["annotations"]
            if not row.get("difficult", False)
        }
        file = read_json(path)
        with_box = {(str(row["image_id"]), row["category_id"]) for row in file["annotations"]}
        return {
            **figures,
            "boxes_per_image": round(len(file["annotations"]) / len(file["images"]), 2),
            "pairs_without": round(100 * (1 - len(with_box) / len(pairs)), 1),
            "objects_without": round(100 - figures["recall"], 1),
        }


def plan(rules: Sequence[str], *, grid: bool) -> list[tuple[str, str, Sequence[str]]]:
    """(table's row, rule of its boxes, settings of the detector)."""
    rows: list[tuple[str, str, Sequence[str]]] = [(TRUE, TRUE, NO_DROP)]
    rows += [(rule, rule, NO_DROP) for rule in rules]
    rows.append(("adaptive + RoI drop of the config", "adaptive", ()))
    if grid:
        for cls, reg in GRID:
            name = f"adaptive + RoI drop, cls {cls:g}, reg {reg:g}"
            rows.append((name, "adaptive", thresholds(cls, reg)))
    return rows


def markdown(rows: Sequence[Row]) -> str:
    """The table; of several seeds the mean, the lowest and the highest run."""
    head = "labels | boxes | precision / recall | pairs / objects without box | fg dropped | AP50"
    lines = [f"| {head} | of full supervision |", "|" + "---|" * 7]
    full = ap50_of_seeds(rows[0]["seeds"])[0]
    for row in rows:
        good, (mean, low, high) = row["quality"], ap50_of_seeds(row["seeds"])
        shares = [run["dropped"]["fg"] for run in row["seeds"].values()]
        cells = [
            row["labels"],
            f"{good['boxes_per_image']:.2f}",
            f"{good['precision']:.1f} / {good['recall']:.1f}",
            f"{good['pairs_without']:.1f} / {good['objects_without']:.1f}",
            f"{sum(shares) / len(shares):.1f}",
            f"{mean:.1f} ({low:.1f}–{high:.1f})",
            f"{100 * mean / full:.0f} %",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(args: argparse.Namespace) -> None:
    """All rows; the files are written anew after each one."""
    setting = Setting(data=args.data, work=args.json.resolve().parent)
    labels = Labels(setting, args.detections)
    rows: list[Row] = []
    for name, rule, settings in plan(args.rules, grid=not args.no_grid):
        run = name.replace(" ", "").replace(",", "-")
        path = labels.of(rule)
        seeds = {str(s): setting.detector(run, path, settings, s) for s in args.seeds}
        rows.append({"labels": name, "quality": labels.quality(rule), "seeds": seeds})
        print(json.dumps(rows[-1]), flush=True)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
        args.json.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder in VOC layout")
    parser.add_argument("--detections", type=Path, required=True, metavar="FILE")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rules", nargs="+", choices=list(RULES), default=list(RULES))
    parser.add_argument("--no-grid", action="store_true", help="Table 5 only")
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
