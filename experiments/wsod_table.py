"""Heads and proposals of weakly supervised detection side by side on photographs.

WSDDN, OICR, PCL and MIST on WeakSAM's and on Selective Search's boxes, then MIST on each row of
WeakSAM's Table 4 whose boxes are at hand, with recall of the boxes, CorLoc of the training split,
AP50 (area) of the test split, and 95 % bootstrap intervals over images of each run.

Example:
    make real DATA=datasets/VOC2012       # makes output/real/proposals
    python experiments/wsod_table.py --data datasets/VOC2012 --proposals output/real/proposals \
        --json output/wsod_table/table.json

--boxes NAME=FOLDER adds proposals of one's own: FOLDER holds a store for each split. --seeds takes
several; --full trains three times as long (for a GPU). A second call goes on where a kill stopped
the first. Writes JSON and, beside it, the table as Markdown.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from weaksam_d2.artifacts import ProposalStore, read_json, sha256_file, write_json

REPO = Path(__file__).resolve().parents[1]
SPLITS = ("animals_train_weak", "animals_val_weak")
PIPELINE = REPO / "configs" / "pipelines" / "voc_animals.yaml"
CLASSES = ("cat", "cow", "dog", "horse", "sheep")
HEADS = ("wsddn", "oicr", "pcl", "mist")
ABLATION_HEAD = "mist"  # of Table 4
ABLATION = {
    "dense": ["Grid"],
    "dense + coarse": ["Grid", "CoarseCAMPeaks"],
    "dense + fine": ["Grid", "FineCAMPeaks"],  # the order of the paper's rows
    "dense + fine + coarse": ["Grid", "FineCAMPeaks", "CoarseCAMPeaks"],
    "dense + fine + coarse + cross": [
        *("Grid", "FineCAMPeaks", "CoarseCAMPeaks", "CrossAttentionPeaks"),
    ],
}
RECIPE_STEPS, RECIPE_ITERATIONS = 480, 640  # configs/Animals/oicr_lite0.yaml
Row = dict[str, Any]
Stores = tuple[Path, Path]  # of the training split, of the test split


class Experiment:
    """The tools' commands for one folder of results."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work: Path = args.json.resolve().parent
        self.length = "-full" if args.full else ""
        root = str(Path(args.data).resolve())
        self.voc = tuple(
            (name.removesuffix("_weak"), root, name.removesuffix("_weak"), 2012, CLASSES)
            for name in SPLITS
        )

    def tool(self, name: str, *arguments: object) -> None:
        """Run one tool; its failure ends the experiment."""
        command = [sys.executable, str(REPO / "tools" / name), *(str(a) for a in arguments)]
        print("+", " ".join(command[1:]), flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def sources(self, name: str, sources: Sequence[str], stores: Stores) -> Stores | None:
        """The boxes of some sources as stores of their own; None: a source is not there."""
        names = ProposalStore(stores[0]).source_names
        known = {names[i] for i in np.unique(np.load(stores[0] / "sources.npy"))}
        if missing := sorted(set(sources) - known):
            print(f"no row '{name}': {stores[0]} has no boxes of {', '.join(missing)}", flush=True)
            return None
        if set(sources) == known:
            return stores
        folder = self.work / "proposals" / name.replace(" ", "")
        for split, store in zip(SPLITS, stores, strict=True):
            if not (folder / split).exists():
                flags = ["--input", store, "--output", folder / split, "--sources", *sources]
                self.tool("convert_proposals.py", *flags)
        return folder / SPLITS[0], folder / SPLITS[1]

    def require_same(self, name: str, stores: Stores) -> None:
        """Refuse a folder whose figures are of other boxes of that name.

        Raises:
            ValueError: the boxes have changed since the folder was begun.
        """
        file = self.work / "boxes" / f"{name.replace(' ', '')}.json"
        found = [sha256_file(store / "boxes.npy") for store in stores]
        if not file.exists():
            write_json(file, found)
        elif read_json(file) != found:
            raise ValueError(
                f"{self.work} has figures of other boxes named '{name}' than those of "
                f"{stores[0].parent}; name another folder in --json"
            )

    def recall(self, name: str, stores: Stores) -> Row:
        """Recall of the boxes of the training split at IoU .5, .75 and .9 (one to one)."""
        file = self.work / "recall" / f"{name.replace(' ', '')}.json"
        if not file.exists():
            flags = ["--config-file", PIPELINE, "--input", stores[0], "--output", file]
            data = ["DATASETS.VOC", self.voc, "DATASETS.TRAIN", f"('{SPLITS[0]}',)"]
            self.tool("evaluate_proposals.py", *flags, *data, "DATASETS.TEST", "()")
        figures: Row = json.loads(file.read_text())["proposals"]["one2one"]
        return figures

    def detector(self, head: str, name: str, stores: Stores, seed: int) -> Row:
        """AP50 of the test split and CorLoc of the training split of one trained detector."""
        output = self.work / "runs" / f"{head}-{name.replace(' ', '')}-{seed}{self.length}"
        results = output / "results.json"
        if not results.exists():
            config = REPO / "configs" / "Animals" / f"{head}_lite0.yaml"
            longer = 3 if self.args.full else 1
            keys = {
                "DATASETS.VOC": self.voc,
                "DATASETS.TRAIN": SPLITS[:1],
                "DATASETS.TEST": SPLITS,
                "DATASETS.PROPOSAL_FILES_TRAIN": (str(stores[0]),),
                "DATASETS.PROPOSAL_FILES_TEST": tuple(str(store) for store in stores),
                "MODEL.ROI_HEADS.NUM_CLASSES": len(CLASSES),
                "SOLVER.STEPS": (longer * RECIPE_STEPS,),
                "SOLVER.MAX_ITER": longer * RECIPE_ITERATIONS,
                "TEST.BOOTSTRAP": 1000,
                "SEED": seed,
                "OUTPUT_DIR": output,
            }
            settings = [text for pair in keys.items() for text in pair]
            self.tool("train_net.py", "--config-file", config, "--resume", *settings)
        figures: Row = json.loads(results.read_text())
        return {
            "AP50": interval(figures, f"{SPLITS[1]}/bbox/AP50"),
            "CorLoc": interval(figures, f"{SPLITS[0]}/corloc/CorLoc"),
        }

    def row(self, head: str, name: str, stores: Stores) -> Row:
        """One line of the table, with a run for each seed."""
        self.require_same(name, stores)
        recall = self.recall(name, stores)
        runs = {str(seed): self.detector(head, name, stores, seed) for seed in self.args.seeds}
        row = {"head": head, "proposals": name, "recall": recall, "seeds": runs}
        print(json.dumps(row), flush=True)
        return row


def interval(figures: Mapping[str, float], name: str) -> list[float]:
    """A figure with the two ends of its interval."""
    return [round(figures[name + end], 2) for end in ("", "_low", "_high")]


def pairs(folder: Path, suffix: str = "") -> Stores:
    """The stores of both splits in a folder."""
    train, test = (folder / (split + suffix) for split in SPLITS)
    return train, test


def markdown(rows: Sequence[Row]) -> str:
    """The table; several seeds give the mean of a figure and its lowest and highest run."""
    head = "head | proposals | boxes | recall .5 / .75 / .9 | AP50 | CorLoc"
    lines = [f"| {head} |", "|" + "---|" * 6]
    for row in rows:
        recall = row["recall"]
        found = " / ".join(f"{recall[key]:.1f}" for key in ("recall50", "recall75", "recall90"))
        cells = [row["head"].upper(), row["proposals"], f"{recall['per_image']:.0f}", found]
        cells += [_cell([run[key] for run in row["seeds"].values()]) for key in ("AP50", "CorLoc")]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _cell(runs: Sequence[Sequence[float]]) -> str:
    if len(runs) == 1:
        value, low, high = runs[0]
        return f"{value:.1f} ({low:.1f}–{high:.1f})"
    values = [run[0] for run in runs]
    return f"{sum(values) / len(values):.1f} [{min(values):.1f}, {max(values):.1f}]"


def main(args: argparse.Namespace) -> None:
    """All rows; the files are written anew after each one."""
    run = Experiment(args)
    run.work.mkdir(parents=True, exist_ok=True)
    ours, classic = pairs(args.proposals), pairs(args.proposals, "_selective_search")
    boxes: dict[str, Stores] = {"WeakSAM": ours, "Selective Search": classic}
    for entry in args.boxes:
        name, _, folder = entry.partition("=")
        boxes[name] = pairs(Path(folder).resolve())
    plan = [(head, name, stores) for head in args.heads for name, stores in boxes.items()]
    for name, sources in ABLATION.items():
        chosen = run.sources(name, sources, ours)
        if chosen is not None and chosen != ours and ABLATION_HEAD in args.heads:
            plan.append((ABLATION_HEAD, name, chosen))
    rows: list[Row] = []
    for head, name, stores in plan:
        rows.append(run.row(head, name, stores))
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
        args.json.with_suffix(".md").write_text(markdown(rows))
    print(markdown(rows))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder in VOC layout")
    parser.add_argument("--proposals", type=Path, required=True, metavar="DIR")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--boxes", nargs="*", default=[], metavar="NAME=FOLDER")
    parser.add_argument("--heads", nargs="+", choices=HEADS, default=list(HEADS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--full", action="store_true", help="three times as many iterations")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
