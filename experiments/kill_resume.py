"""Kill -9 the real tool with real SAM weights at random moments; is the artifact still the same?

The tool is killed ten times, each time some random time after one more part, then left to finish;
likewise with two ranks of which one is killed. Every file but the manifest must have the bytes of a
run that nobody disturbed. Needs Linux, and the weights that `make setup` fetches.

Example:
    python experiments/kill_resume.py --json output/experiments/kill_resume.json

--full takes more and larger images (for a GPU). Writes JSON and, beside it, a plot.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

REPO = Path(__file__).resolve().parents[1]
Row = dict[str, Any]


class Tool:
    """One setting of ``tools/generate_proposals.py``, started again and again."""

    def __init__(self, folder: Path, dataset: str, size: int, grid: int) -> None:
        self.folder = folder
        self.options = [
            *("DATASETS.TRAIN", f"('{dataset}',)", "DATASETS.TEST", "()"),
            *("WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE", str(grid)),
            *("WEAKSAM.SAM.INPUT_SIZE", str(size), "PIPELINE.CAMS_CONFIG", ""),
        ]

    def start(self, name: str, *flags: str) -> "subprocess.Popen[bytes]":
        """Start the tool; its log goes beside the output."""
        config = str(REPO / "configs/pipelines/scenes_quick.yaml")
        script = str(REPO / "tools/generate_proposals.py")
        command = [sys.executable, script, "--config-file", config]
        command += ["--output", str(self.folder / name), *flags, *self.options]
        with open(self.folder / f"{name}.log", "ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def finish(self, process: "subprocess.Popen[bytes]", name: str) -> None:
        """Wait for an orderly end."""
        if process.wait() != 0:
            raise RuntimeError((self.folder / f"{name}.log").read_text()[-3000:])

    def finished_parts(self, name: str) -> int:
        """Parts of an artifact that are complete."""
        return len(list(self.folder.glob(f"{name}.parts/part-*")))

    def files(self, name: str) -> dict[str, bytes]:
        """Content of all files but the manifest, which holds times."""
        paths = (self.folder / name).iterdir()
        return {path.name: path.read_bytes() for path in paths if path.name != "manifest.json"}

    def part_seconds(self, name: str, parts: int) -> float:
        """Seconds of work for one part, from the manifest of a complete artifact."""
        manifest = json.loads((self.folder / name / "manifest.json").read_text())
        return float(manifest["seconds"]["total"]) / parts


def wait_for_parts(tool: Tool, name: str, count: int, process: "subprocess.Popen[bytes]") -> None:
    """Wait until so many parts are complete, or the tool has ended."""
    while tool.finished_parts(name) < count and process.poll() is None:
        time.sleep(0.02)


def rank_processes(parent: int) -> list[int]:
    """Process ids of the ranks that the tool has started."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return sorted(
        int(pid) for pid in children if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
    )


def kill_the_tool(tool: Tool, kills: int, seconds: float, rng: random.Random) -> Row:
    """Kills of one process; each run is let come as far as one more part.

    A run that ends before its kill makes a complete artifact; the kills go on with the next one.
    """
    outputs, moments, parts = ["killed0"], [], []
    while len(moments) < kills:
        name = outputs[-1]
        process = tool.start(name, "--part-size", "1")
        wait_for_parts(tool, name, tool.finished_parts(name) + 1, process)
        moment = round(rng.uniform(0, 1.5) * seconds, 3)
        time.sleep(moment)
        process.send_signal(signal.SIGKILL)
        if process.wait() != -signal.SIGKILL:
            outputs.append(f"killed{len(outputs)}")
            continue
        moments.append(moment)
        parts.append(tool.finished_parts(name))
        print(f"kill {len(moments)}: {parts[-1]} parts are complete")
    tool.finish(tool.start(outputs[-1]), outputs[-1])
    return {
        "kills": kills,
        "outputs": outputs,
        "seconds_after_a_part": moments,
        "parts_after_each_kill": parts,
    }


def kill_a_rank(tool: Tool, kills: int, seconds: float, rng: random.Random) -> Row:
    """One rank of two is killed in each of some runs; the other one goes on."""
    moments, killed = [], []
    for run in range(kills):
        name = f"ranks{run}"
        process = tool.start(name, "--part-size", "1", "--num-gpus", "2")
        wait_for_parts(tool, name, 1, process)
        moments.append(round(rng.uniform(0, 3) * seconds, 3))
        time.sleep(moments[-1])
        killed.append(rng.randrange(2))
        os.kill(rank_processes(process.pid)[killed[-1]], signal.SIGKILL)
        tool.finish(process, name)
        print(f"rank {killed[-1]} was killed with {moments[-1]} s since a part, all parts are made")
    outputs = [f"ranks{run}" for run in range(kills)]
    return {"kills": kills, "outputs": outputs, "seconds_after_a_part": moments, "rank": killed}


def plot(rows: list[Row], file: Path) -> None:
    """Complete parts after each kill."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    done = rows[0]["parts_after_each_kill"]
    figure, axes = pyplot.subplots(figsize=(5, 3))
    axes.step(range(1, len(done) + 1), done, where="post", marker="x")
    axes.set_xlabel("kill -9")
    axes.set_ylabel("complete parts")
    figure.savefig(file, bbox_inches="tight", dpi=120)


def main(args: argparse.Namespace) -> None:
    """Run both, compare the bytes, write JSON and the plot."""
    rng = random.Random(args.seed)
    images, size, grid = (400, 1024, 32) if args.full else (24, 256, 2)
    with tempfile.TemporaryDirectory() as folder:
        dataset = f"scenes_{'demo' if args.full else 'tiny'}_train_weak@{images}"
        tool = Tool(Path(folder), dataset, size, grid)
        start = time.perf_counter()
        tool.finish(tool.start("whole", "--part-size", "1"), "whole")
        whole_s = time.perf_counter() - start
        seconds = tool.part_seconds("whole", images)
        rows = [
            {"case": "the only process", **kill_the_tool(tool, args.kills, seconds, rng)},
            {"case": "one of two ranks", **kill_a_rank(tool, args.rank_kills, seconds, rng)},
        ]
        whole = tool.files("whole")
        for row in rows:
            row["identical"] = all(tool.files(name) == whole for name in row["outputs"])
            row["work"] = f"{images} scenes, MobileSAM at {size}, grid {grid}, {images} parts"
            row["undisturbed_s"] = round(whole_s, 1)
    print(json.dumps(rows, indent=1))
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
        plot(rows, args.json.with_suffix(".png"))
    if not all(row["identical"] for row in rows):
        raise SystemExit("an artifact differs from the undisturbed one")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--full", action="store_true", help="for a GPU: 400 scenes at 1024 pixels")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--rank-kills", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
