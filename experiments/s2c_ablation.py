"""What each part of S2C adds to the activation maps (S2C, Tables 1 and 2).

Examples:
    python experiments/s2c_ablation.py --json output/s2c/scenes.json
    python experiments/s2c_ablation.py --data datasets/VOC2012 --json output/s2c/animals.json \
        --masks output/sam_masks --pca output/s2c/features.png

The same classifier is trained with and without each part, and its maps of the training images are
compared with their true label maps: mIoU at the fixed background score of the config (0.30), with
95 % intervals over the images, and, apart from it, what the best threshold would give (an analysis
with the truth, which no stage knows). Without --data rendered scenes are used, with it five animals
of a folder in VOC layout; --set takes the first images of one. --masks is a store of SAM's masks of
these images; without it they are made first. --pca draws the features of some images with and
without the contrast of segments. --opts takes KEY VALUE pairs for all trainings. A second call goes
on where a kill stopped the first. Writes JSON, the table as Markdown and a plot.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from PIL import Image
from weaksam_d2.projects.s2c.feature_colors import principal_colors

from weaksam_d2.artifacts import read_json, write_json
from weaksam_d2.data import read_image, weak_records
from weaksam_d2.engine.analysis.label_figures import label_figures
from weaksam_d2.engine.cli import setup
from weaksam_d2.projects import add_all_configs
from weaksam_d2.visualization import Bars, write_plots

REPO = Path(__file__).resolve().parents[1]
ANIMALS = ("cat", "cow", "dog", "horse", "sheep")
Row = dict[str, Any]
RESAMPLES = 1000
_WITHOUT_CPM = ("MODEL.S2C.LOSS_WEIGHTS", "(1.0, 1.0, 0.0)")
BASELINE, CONTRAST = "baseline", "SSC"
# Row: settings, and mIoU of VOC 2012 train in the paper (WRN-38, SAM ViT-H).
ROWS: Mapping[str, tuple[Sequence[str], float | None]] = {
    BASELINE: (("MODEL.S2C.LOSS_WEIGHTS", "(1.0, 0.0, 0.0)"), 50.1),
    CONTRAST: (_WITHOUT_CPM, 63.2),
    "CPM": (("MODEL.S2C.LOSS_WEIGHTS", "(1.0, 0.0, 1.0)"), None),
    "SSC + CPM": ((), 76.1),
    "SSC at the logits": ((*_WITHOUT_CPM, "MODEL.S2C.SSC_LEVEL", "logit"), 57.3),
    "SSC + CPM, one peak": (("MODEL.S2C.PEAKS", "single"), 73.0),
    "SSC + CPM, SAM's confidence": (("MODEL.S2C.CPM_CONF", "sam"), 73.2),
    "SSC + CPM, no confidence": (("MODEL.S2C.CPM_CONF", "none"), 72.7),
    "SSC + CPM, no background": (("MODEL.S2C.CPM_BACKGROUND", "False"), 74.9),
}


class Ablation:
    """The data, the classifier's config and the folder of the experiment."""

    def __init__(self, args: argparse.Namespace) -> None:
        kind = "animals" if args.data else "scenes"
        self.args, self.work = args, args.json.resolve().parent / kind
        self.config = REPO / f"projects/S2C/configs/s2c_lite0_{kind}.yaml"
        self.dataset = args.set or ("animals_train_weak" if args.data else "scenes_demo_train_weak")
        root = str(Path(args.data).resolve()) if args.data else ""
        voc = (("animals_train", root, "animals_train", 2012, ANIMALS),) if args.data else ()
        self.keys = ["DATASETS.VOC", str(voc), "DATASETS.TRAIN", f"('{self.dataset}',)"]
        self.keys += ["TEST.BOOTSTRAP", str(RESAMPLES), *args.opts]
        self.cfg = self._load(())
        classes = len(self._metadata_classes())
        self.keys += ["MODEL.ROI_HEADS.NUM_CLASSES", str(classes)]

    def _load(self, settings: Sequence[str]) -> Any:
        flags = argparse.Namespace(
            config_file=str(self.config), opts=[*self.keys, *settings], register=[]
        )
        return setup(flags, add_all_configs)

    def _metadata_classes(self) -> list[str]:
        weak_records(self.dataset)
        return list(MetadataCatalog.get(self.dataset).thing_classes)

    def tool(self, name: str, *arguments: object) -> None:
        """Run one tool; its failure ends the experiment."""
        command = [sys.executable, str(REPO / "tools" / name), *(str(a) for a in arguments)]
        print("+", " ".join(command[1:]), flush=True)
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def masks(self) -> Path:
        """The store of SAM's masks, made if none is given."""
        if self.args.masks is not None:
            return Path(self.args.masks).resolve()
        output = self.work / "sam_masks"
        if not (output / "manifest.json").exists():
            sam = self.cfg.WEAKSAM.SAM
            keys = ["DATASETS.VOC", str(tuple(self.cfg.DATASETS.VOC))]
            keys += ["DATASETS.TRAIN", f"('{self.dataset}',)", "WEAKSAM.SAM.ARCH", sam.ARCH]
            keys += ["WEAKSAM.SAM.INPUT_SIZE", str(sam.INPUT_SIZE)]
            keys += ["WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE", "12"]
            config = REPO / "configs/SAM-Masks/sepl_vit_h.yaml"
            self.tool("generate_proposals.py", "--config-file", config, "--output", output, *keys)
        return output

    def row(self, name: str, seed: int) -> Row:
        """Train, make maps, and compare them with the truth."""
        settings, published = ROWS[name]
        folder = self.folder(name, seed)
        if not (folder / "figures.json").exists():
            keys = [*self.keys, "MODEL.S2C.MASKS", str(self.masks()), "SEED", str(seed), *settings]
            weights = folder / "model_final.pth"
            flags = ["--config-file", self.config]
            self.tool("train_net.py", *flags, "--resume", *keys, "OUTPUT_DIR", folder)
            cams = ["--input", weights, "--output", folder / "cams"]
            self.tool("generate_cams.py", *flags, *cams, *keys)
            found = label_figures(
                self.cfg, {name: folder / "cams"}, self.dataset, tune_threshold=True
            )
            write_json(folder / "figures.json", found["inputs"][name])
        found = read_json(folder / "figures.json")
        figures, oracle = found["figures"], found["threshold"]
        return {
            "row": name,
            "seed": seed,
            **{key: round(figures[key], 2) for key in ("mIoU", "mIoU_low", "mIoU_high")},
            **{key: round(figures[key], 2) for key in ("precision", "recall")},
            "mIoU_oracle_threshold": round(oracle["mIoU_oracle_threshold"], 2),
            "oracle_threshold": oracle["oracle_threshold"],
            "published_voc12": published,
        }

    def folder(self, name: str, seed: int) -> Path:
        """Where one training lies."""
        return self.work / f"{re.sub('[^A-Za-z]+', '_', name)}-{seed}"

    def draw_features(self, path: Path, seed: int, images: int = 4) -> None:
        """Pictures: the image, its features without the contrast of segments, and with it."""
        rows = []
        networks = []
        for name in (BASELINE, CONTRAST):
            model = build_model(self._load(()))
            DetectionCheckpointer(model).load(str(self.folder(name, seed) / "model_final.pth"))
            networks.append(model.eval())
        for record in weak_records(self.dataset)[:images]:
            picture = Image.fromarray(read_image(record["file_name"])).resize((256, 256))
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
            cells = [np.array(picture)]
            for model in networks:
                with torch.no_grad():
                    features = model.network(model.normalize(pixels)[None]).features[0]
                cells.append(principal_colors(features, (256, 256)))
            rows.append(np.concatenate(cells, axis=1))
        Image.fromarray(np.concatenate(rows)).save(path)


def markdown(rows: Sequence[Row]) -> str:
    """The table; intervals in brackets."""
    head = ["row", "seed", "mIoU", "precision", "recall", "best threshold*", "published**"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for row in rows:
        cells = [row["row"], str(row["seed"])]
        cells.append(f"{row['mIoU']:.1f} ({row['mIoU_low']:.1f}–{row['mIoU_high']:.1f})")
        cells += [f"{row['precision']:.1f}", f"{row['recall']:.1f}"]
        cells.append(f"{row['mIoU_oracle_threshold']:.1f} at {row['oracle_threshold']:.2f}")
        cells.append("" if row["published_voc12"] is None else f"{row['published_voc12']:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    notes = (
        "\\* chosen with the true labels, an analysis. \\*\\* VOC 2012 train, WRN-38, SAM ViT-H."
    )
    return "\n".join(lines) + f"\n\n{notes}\n"


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """mIoU of each row with its interval."""
    names = [row["row"] for row in rows]
    low, high = ([row[key] for row in rows] for key in ("mIoU_low", "mIoU_high"))
    bars = Bars(names, [row["mIoU"] for row in rows], "mIoU of the maps (%)", low=low, high=high)
    write_plots(path, [bars], title=title)


def main(args: argparse.Namespace) -> None:
    """All rows; the files are written anew after each one."""
    ablation = Ablation(args)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    rows: list[Row] = []
    for seed in args.seeds:
        for name in args.rows:
            rows.append(ablation.row(name, seed))
            print(json.dumps(rows[-1]), flush=True)
            args.json.write_text(json.dumps(rows, indent=1) + "\n")
            args.json.with_suffix(".md").write_text(markdown(rows))
            draw(args.json.with_suffix(".svg"), rows, f"S2C on {ablation.dataset}")
    if args.pca is not None:
        ablation.draw_features(args.pca, args.seeds[0])
    print(markdown(rows))


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", default="", metavar="DIR", help="folder in VOC layout")
    parser.add_argument("--set", default="", metavar="NAME", help="such as animals_train_weak@150")
    parser.add_argument("--masks", type=Path, metavar="DIR", help="store of SAM's masks")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[42])
    parser.add_argument("--pca", type=Path, metavar="FILE", help="picture of the features (PNG)")
    parser.add_argument("--opts", nargs="+", default=[], metavar="KEY VALUE")
    args = parser.parse_args()
    if args.pca is not None and not {BASELINE, CONTRAST} <= set(args.rows):
        parser.error(f"--pca needs the rows {BASELINE!r} and {CONTRAST!r}")
    return args


if __name__ == "__main__":
    main(parse_args())
