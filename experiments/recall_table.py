"""Recall of WeakSAM's boxes, source by source, against the classic methods (WeakSAM, Table 4).

Example:
    python experiments/recall_table.py --data datasets/VOC2012 --json output/recall/table.json
    python experiments/recall_table.py --data datasets/VOC2012 --full \
        --json output/recall_full/table.json

Trains the CNN classifier on the tags of --train, makes maps, prompts, SAM's boxes, Selective
Search and, if --edge-boxes names its model file, EdgeBoxes of 100 evenly spaced images of --test,
and compares them, with a plot beside the table. Clue networks whose published weights are not
given (--weaktr, --mctformer, --clip) have no row. The CPU setting uses MobileSAM and a 16 x 16
grid; --full the paper's 32 x 32 grid (hours on a CPU). --grid-nms takes several values, one set of
rows each: the paper's .3 was chosen for SAM ViT-H, whose grid leaves far more boxes; it costs
MobileSAM much of its recall at strict overlaps. It goes on where a kill stopped it.
"""

import argparse
import subprocess
import sys
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
CLASSIFIER = "configs/PascalVOC-Classification/cnn_lite0.yaml"
SAM_CONFIG = "configs/pipelines/voc_animals.yaml"  # MobileSAM, input 1024
PUBLISHED = {
    "weaktr": "configs/PascalVOC-Classification/weaktr_deit_s.yaml",
    "mctformer": "configs/PascalVOC-Classification/mctformer_v2_deit_s.yaml",
    "clip": "configs/PascalVOC-Classification/clip_es_vit_b16.yaml",
}
CNN_SOURCES = "('Grid','CoarseCAMPeaks')"
ALL_SOURCES = "('Grid','CoarseCAMPeaks','FineCAMPeaks','CrossAttentionPeaks')"


class Experiment:
    """The tools' commands for one folder of results."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.work: Path = args.json.resolve().parent
        root = str(Path(args.data).resolve())
        self.voc = (
            f"(('table_train','{root}','{args.train}',2012,()),"
            f"('table_test','{root}','{args.test}',2012,()))"
        )
        self.test = f"table_test_weak@{args.images}"

    def tool(self, name: str, config: str, dataset: str, *arguments: object) -> None:
        """Run one tool on a data set; flags first, then config keys. Its failure ends the run."""
        command = [sys.executable, str(REPO / "tools" / name), "--config-file", str(REPO / config)]
        command += [str(argument) for argument in arguments]
        command += ["DATASETS.VOC", self.voc, "DATASETS.TRAIN", f"('{dataset}',)"]
        command += ["DATASETS.TEST", "()"]
        print("+", " ".join(command[1:]), flush=True)
        subprocess.run(command, check=True)

    def classifier(self) -> Path:
        """Weights of the CNN classifier, trained on tags alone."""
        folder = self.work / "cnn" / "classifier"
        weights = folder / "model_final.pth"
        if not weights.exists():
            train = "table_train_weak"
            self.tool("train_net.py", CLASSIFIER, train, "--resume", "OUTPUT_DIR", folder)
        return weights

    def weaksam(self, name: str, config: str, weights: str) -> dict[str, Path]:
        """Rows of one clue network: SAM's boxes at each NMS threshold of the grid.

        Without published weights the CNN's, which are trained here.
        """
        folder, keys = self.work / name, list[object]()
        source: list[object] = ["--input", self.classifier()] if name == "cnn" else []
        if name != "cnn":
            keys = ["MODEL.CLASSIFIER.WEIGHTS", Path(weights).resolve()]
        cams, prompts = folder / "cams", folder / "prompts"
        self.tool("generate_cams.py", config, self.test, *source, "--output", cams, *keys)
        sources = CNN_SOURCES if name == "cnn" else ALL_SOURCES
        grid = 32 if self.args.full else 16
        settings = ["WEAKSAM.PROMPTS.SOURCES", sources]
        settings += ["WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE", str(grid)]
        flags = ["--input", cams, "--output", prompts]
        self.tool("generate_prompts.py", SAM_CONFIG, self.test, *flags, *settings)
        rows: dict[str, Path] = {}
        for threshold in self.args.grid_nms:
            boxes = folder / f"proposals_nms_{threshold}"
            flags = ["--input", prompts, "--output", boxes, *settings]
            flags += ["WEAKSAM.PROPOSALS.GRID.NMS_THRESH", str(threshold)]
            self.tool("generate_proposals.py", SAM_CONFIG, self.test, *flags)
            rows[f"WeakSAM ({name}), grid NMS {threshold}"] = boxes
        return rows

    def classic(self, method: str, *keys: object) -> Path:
        """Boxes of a method that needs no prompts."""
        output = self.work / method
        flags = ["--output", output, "WEAKSAM.PROPOSALS.METHOD", method]
        self.tool("generate_proposals.py", SAM_CONFIG, self.test, *flags, *keys)
        return output


def main(args: argparse.Namespace) -> None:
    """All rows, then the table."""
    run = Experiment(args)
    run.work.mkdir(parents=True, exist_ok=True)
    stores = run.weaksam("cnn", CLASSIFIER, "")
    for name, config in PUBLISHED.items():
        if weights := getattr(args, name):
            stores |= run.weaksam(name, config, weights)
    stores["Selective Search"] = run.classic("SelectiveSearch")
    if args.edge_boxes:
        key = ("WEAKSAM.PROPOSALS.EDGE_BOXES_MODEL", Path(args.edge_boxes).resolve())
        stores["EdgeBoxes"] = run.classic("EdgeBoxes", *key)
    named = [f"{name}={path}" for name, path in stores.items()]
    flags = ["--input", *named, "--by-source", "--equal-count", "--overwrite"]
    flags += ["--output", args.json.resolve(), "TEST.BOOTSTRAP", "1000"]
    run.tool("evaluate_proposals.py", SAM_CONFIG, run.test, *flags)


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="folder in VOC layout")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--train", default="train", help="split whose tags train the classifier")
    parser.add_argument("--test", default="val", help="split that the table is made on")
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--full", action="store_true", help="the paper's 32 x 32 grid")
    parser.add_argument("--grid-nms", nargs="+", type=float, default=[0.3], metavar="IOU")
    parser.add_argument("--edge-boxes", metavar="FILE", help="OpenCV's structured edge model")
    for name in PUBLISHED:
        parser.add_argument(f"--{name}", metavar="FILE", help="its published weights")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
