"""What SEPL adds to the labels of class activation maps, with and without a CRF (SEPL, Tables 1-3).

Example:
    python experiments/sepl_table.py --config-file projects/SEPL/configs/sepl_voc12.yaml \
        --dataset voc_2012_seg_train_weak --masks output/sam_masks \
        --seeds CNN=output/cnn/cams WeakTr=output/weaktr/cams MCTformer=output/mctformer/cams \
        --json output/sepl/table.json

--seeds are folders of generate_cams.py, best of networks of different quality; --masks is a store
of SAM's masks of the same images. Each gives the rows CAM, CAM + CRF, CAM + SEPL and CAM + CRF +
SEPL: mIoU, precision and recall with 95 % intervals over the images, and seconds of its last step
for an image. --settings adds rows: SEPL that keeps the seed where no mask lies, the released
merge, the forest of masks. --crf "" leaves the CRF out (it needs the extra "crf"); --opts takes
KEY VALUE pairs, such as WEAKSAM.LABELS.BACKGROUND "power:1". A second call goes on where a kill
stopped the first. Writes JSON, the table as Markdown and a plot. Only the figures read true labels.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from weaksam_d2.artifacts import SemSegLabels, read_json, write_json
from weaksam_d2.data import weak_records
from weaksam_d2.engine.cli import run_command, setup
from weaksam_d2.engine.stages.image_stages import Placement
from weaksam_d2.engine.stages.label_stages import labels_stage
from weaksam_d2.evaluation import evaluate_labels
from weaksam_d2.evaluation.label_truth import truth_reader
from weaksam_d2.projects import add_all_configs
from weaksam_d2.visualization import Bars, write_plots

Row = dict[str, Any]
RESAMPLES = 1000
FIGURES = ("mIoU", "precision", "recall")
_PAPER = (
    *("SEPL.SELECT", "threshold", "SEPL.STRICT", True, "SEPL.ASSIGN", "best"),
    *("SEPL.FALLBACK", "class", "SEPL.CONFLICT", "area", "SEPL.IGNORE", "keep"),
)
SETTINGS: dict[str, tuple[Any, ...]] = {
    "paper": _PAPER,
    "uncovered": (*_PAPER, "SEPL.FALLBACK", "uncovered_pixels"),
    "reference": (
        *("SEPL.SELECT", "threshold", "SEPL.STRICT", False, "SEPL.ASSIGN", "greedy"),
        *("SEPL.FALLBACK", "uncovered_pixels", "SEPL.CONFLICT", "class_id"),
        *("SEPL.IGNORE", "background"),
    ),
    "tree": (*_PAPER, "SEPL.SELECT", "tree"),
}


class Experiment:
    """The data set, its true labels and the folder of results."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args, self.work = args, args.json.resolve().parent
        self.cfg = setup(args, add_all_configs)
        self.truth = truth_reader(args.dataset)
        known = set(self.truth.image_ids)
        ids = [str(record["image_id"]) for record in weak_records(args.dataset)]
        self.ids = [image_id for image_id in ids if image_id in known]

    def rows(self) -> Iterator[Row]:
        """One row after the other, its labels made first."""
        for name, cams in self.args.seeds.items():
            for start in ("cam", "crf") if self.args.crf else ("cam",):
                kind = "CAM + CRF" if start == "crf" else "CAM"
                crf = self.args.crf if start == "crf" else ""
                keys = ("WEAKSAM.LABELS.SOURCE", "CAM", "WEAKSAM.LABELS.CRF", crf)
                seed = self.work / name / start
                yield self._row(name, kind, keys, {"input": cams}, seed)
                for setting in self.args.settings:
                    keys = ("WEAKSAM.LABELS.SOURCE", "SEPL", "SEPL.START", start)
                    inputs = {"input": seed, "masks": self.args.masks}
                    output = self.work / name / f"{start}_sepl_{setting}"
                    tail = "" if setting == "paper" else f" ({setting})"
                    yield self._row(
                        name, f"{kind} + SEPL{tail}", keys + SETTINGS[setting], inputs, output
                    )

    def _row(
        self, name: str, kind: str, keys: Sequence[Any], inputs: dict[str, Path], output: Path
    ) -> Row:
        cfg = self.cfg.clone()
        cfg.defrost()
        cfg.merge_from_list(list(keys))
        manifest = labels_stage(cfg, self.args.dataset, inputs, Placement(output))
        assert manifest is not None  # one process makes all parts
        figures_file = output.with_name(f"{output.name}_figures.json")
        labels = SemSegLabels.open(output)
        figures = evaluate_labels(labels, self.truth, labels.space, image_ids=self.ids)
        summary = figures.summary(bootstrap=RESAMPLES)
        write_json(figures_file, {**summary, "classes": figures.per_class()})
        seconds = manifest.seconds["total"] / max(len(labels), 1)
        flags = {key: value for key, value in manifest.counts.items() if key.startswith("flagged_")}
        return {"seeds": name, "labels": kind, **summary, "seconds_per_image": seconds, **flags}


def markdown(rows: Sequence[Row]) -> str:
    """The table; intervals in brackets."""
    head = ["maps", "labels", *FIGURES, "precision / recall of an image", "s / image"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["seeds"], row["labels"]]
        cells += [f"{row[f]:.1f} ({row[f + '_low']:.1f}–{row[f + '_high']:.1f})" for f in FIGURES]
        cells.append(f"{row['image_precision']:.1f} / {row['image_recall']:.1f}")
        lines.append("| " + " | ".join([*cells, f"{row['seconds_per_image']:.3f}"]) + " |")
    return "\n".join(lines) + "\n"


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """A panel for each figure, a bar for each row."""
    names = [f"{row['seeds']}: {row['labels']}" for row in rows]
    panels = [
        Bars(
            names,
            [row[figure] for row in rows],
            f"{figure} (%)",
            low=[row[f"{figure}_low"] for row in rows],
            high=[row[f"{figure}_high"] for row in rows],
        )
        for figure in FIGURES
    ]
    write_plots(path, panels, title=title)


def main(args: argparse.Namespace) -> None:
    """All rows; the files are written anew after each one."""
    experiment = Experiment(args)
    rows: list[Row] = []
    facts = {"dataset": args.dataset, "images": len(experiment.ids), "resamples": RESAMPLES}
    facts |= {"crf": args.crf, "background": experiment.cfg.WEAKSAM.LABELS.BACKGROUND}
    facts |= {"sepl": dict(experiment.cfg.SEPL)}
    for row in experiment.rows():
        rows.append(row)
        write_json(args.json, {**facts, "rows": rows})
        args.json.with_suffix(".md").write_text(markdown(rows))
        draw(args.json.with_suffix(".svg"), rows, f"{args.dataset}, {len(experiment.ids)} images")
    print(markdown(read_json(args.json)["rows"]))


def _named(parser: argparse.ArgumentParser, pairs: Sequence[str]) -> dict[str, Path]:
    named = {name: Path(path) for name, _, path in (pair.partition("=") for pair in pairs)}
    if wrong := [name for name, path in named.items() if not name or not path.is_dir()]:
        parser.error(f"--seeds {json.dumps(wrong)}: expected NAME=FOLDER of generate_cams.py")
    return named


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True, metavar="FILE")
    parser.add_argument("--dataset", required=True, help="tagged images with true labels")
    parser.add_argument("--seeds", nargs="+", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--masks", type=Path, required=True, help="store of SAM's masks")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--crf", default="weaktr_voc", help='setting of the CRF; "": none')
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["paper"])
    parser.add_argument("--register", action="append", default=[], metavar="MODULE")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE")
    args = parser.parse_args()
    args.seeds = _named(parser, args.seeds)
    args.opts += ["DATASETS.TRAIN", f"('{args.dataset}',)", "DATASETS.TEST", "()"]
    return args


if __name__ == "__main__":
    arguments = parse_args()
    run_command(lambda: main(arguments))
