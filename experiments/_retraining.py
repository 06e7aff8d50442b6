"""A detector that learns from boxes in a file: what the experiments on labels have in common."""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from detectron2.data import MetadataCatalog

from weaksam_d2.artifacts import CategoryMap
from weaksam_d2.engine.cli import setup
from weaksam_d2.engine.dataset_choice import annotated_records
from weaksam_d2.projects import add_all_configs

REPO = Path(__file__).resolve().parents[1]
ANIMALS = ("cat", "cow", "dog", "horse", "sheep")
Row = dict[str, Any]


class Retraining:
    """The data, the detector's config and the folder of one experiment."""

    def __init__(self, *, data: str, work: Path) -> None:
        """data: a folder in VOC layout with the animals' lists; "" for rendered scenes."""
        self.name = "animals" if data else "scenes_demo"
        self.work = work / self.name
        kind = "Animals" if data else "Scenes"
        self.config = REPO / "configs" / kind / "faster_rcnn_lite0_roi_drop.yaml"
        self.train, self.test = (f"{self.name}_{split}_weak" for split in ("train", "val"))
        root = str(Path(data).resolve()) if data else ""
        splits = [name.removesuffix("_weak") for name in (self.train, self.test)]
        voc = tuple((split, root, split, 2012, ANIMALS) for split in splits) if data else ()
        self.keys = ["DATASETS.VOC", str(voc), "DATASETS.TRAIN", f"('{self.train}',)"]
        self.keys += ["DATASETS.TEST", f"('{self.test}',)"]
        flags = argparse.Namespace(config_file=str(self.config), opts=self.keys, register=[])
        setup(flags, add_all_configs)
        self.records = annotated_records(self.train)
        self.categories = CategoryMap.from_metadata(MetadataCatalog.get(self.train))

    def tool(self, name: str, *arguments: object) -> None:
        """Run one tool; its failure ends the experiment."""
        command = [sys.executable, str(REPO / "tools" / name), *(str(a) for a in arguments)]
        print("+", " ".join(command[1:]), flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def detector(self, name: str, labels: Path, settings: Sequence[str], seed: int) -> Row:
        """AP50 with its interval, and shares of dropped RoIs, of a detector trained on labels."""
        output = self.work / "runs" / f"{name}-{seed}"
        if not (output / "results.json").exists():
            keys = [*self.keys, "DATASETS.PSEUDO_GT_TRAIN", f"('{labels}',)", *settings]
            keys += ["MODEL.ROI_HEADS.NUM_CLASSES", str(len(self.categories.categories()))]
            keys += ["TEST.BOOTSTRAP", "1000", "SEED", str(seed), "OUTPUT_DIR", str(output)]
            self.tool("train_net.py", "--config-file", self.config, "--resume", *keys)
        results = json.loads((output / "results.json").read_text())
        ap50 = [round(results[f"{self.test}/bbox/AP50{end}"], 2) for end in ("", "_low", "_high")]
        return {"AP50": ap50, "dropped": _dropped(output / "metrics.json")}


def _dropped(metrics: Path) -> Row:
    """Mean share of RoIs dropped while the drop is active, in percent."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    shares: Row = {}
    for kind in ("fg", "bg"):
        name = f"roi_drop/frac_{kind}"
        values = [row[name] for row in rows if name in row and row.get("roi_drop/active", 1)]
        shares[kind] = round(100 * fmean(values), 2) if values else 0.0
    return shares


def ap50_of_seeds(seeds: dict[str, Row]) -> list[float]:
    """AP50 with both ends: of one run its interval, of several the lowest and the highest run."""
    runs = [run["AP50"] for run in seeds.values()]
    if len(runs) == 1:
        return list(runs[0])
    values = [run[0] for run in runs]
    return [fmean(values), min(values), max(values)]
