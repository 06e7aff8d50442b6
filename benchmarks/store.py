"""Opening and reading a proposal store, against a proposal pickle as detectron2 loads it.

Example:
    python benchmarks/store.py --quick --json output/bench/store.json

Each repeat measures in two fresh processes, store and pickle in turn, which print seconds, memory
above an idle process, and a digest of the boxes that they read; the digests must be equal. COCO
2014 train has 82,000 images (--quick: a tenth); WeakSAM finds 213 boxes in an image.
"""

import hashlib
import json
import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from _harness import make_parser, report

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter

IMAGES, PER_IMAGE, READS = 82_000, 213, 1_000
MAX_SECONDS, MAX_MEGABYTES = 1.0, 200.0  # of opening, at full size
TARGETS = {"open": 10.0, "open_and_read": 2.0, "megabytes": 5.0}
WORK = {
    "open": "open {images} images x 213 boxes",
    "open_and_read": "open it and read 1000 images at random",
    "megabytes": "memory for that, in MB",
}


def write(folder: Path, images: int) -> None:
    """The same boxes as a store and as a pickle."""
    from weaksam_d2.proposals.convert import export_proposals

    rng = np.random.default_rng(0)
    with ProposalStoreWriter(folder / "store", source_names=("Grid", "Fine")) as writer:
        for i in range(images):
            start = rng.uniform(0, 400, (PER_IMAGE, 2))
            boxes = np.concatenate([start, start + rng.uniform(1, 80, start.shape)], axis=1)
            sources = rng.integers(0, 2, PER_IMAGE)
            writer.add(f"{i:012d}", boxes, sources=sources, image_size=(480, 640))
    export_proposals(ProposalStore.open(folder / "store"), "detectron2", folder / "proposals.pkl")


def resident() -> float:
    """Memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def child(kind: str, folder: Path, images: int) -> None:
    """Open and read, and print the figures."""
    asked = np.random.default_rng(1).integers(0, images, READS)
    ids = [f"{i:012d}" for i in asked]
    digest = hashlib.sha256()
    before, start = resident(), perf_counter()
    if kind == "store":
        store = ProposalStore.open(folder / "store")
        opened = perf_counter()
        for image_id in ids:
            digest.update(store[image_id].boxes.tobytes())
    else:
        with open(folder / "proposals.pkl", "rb") as file:
            data = pickle.load(file, encoding="latin1")
        rows = {image_id: row for row, image_id in enumerate(data["ids"])}
        opened = perf_counter()
        for image_id in ids:
            digest.update(data["boxes"][rows[image_id]].tobytes())
    end = perf_counter()
    figures = {"open": opened - start, "open_and_read": end - start, "read": end - opened}
    figures["megabytes"] = resident() - before
    print(json.dumps({**figures, "digest": digest.hexdigest()}))


def measure(kind: str, folder: Path, images: int) -> dict[str, Any]:
    command = [sys.executable, __file__, kind, str(folder), str(images)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, Any] = json.loads(output)
    return figures


def rows_of(images: int, repeats: int) -> list[dict[str, Any]]:
    """One row for each figure; seconds, or MB where the row says so."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write(folder, images)
        pairs = [[measure(k, folder, images) for k in ("store", "pickle")] for _ in range(repeats)]
    assert len({figures["digest"] for pair in pairs for figures in pair}) == 1
    rows = []
    for key, target in TARGETS.items():
        ours, theirs = (median(pair[side][key] for pair in pairs) for side in (0, 1))
        limit = MAX_MEGABYTES if key == "megabytes" else MAX_SECONDS
        rows.append(
            {
                "stage": "store",
                "against": "detectron2's way: unpickle the file",
                "ratio": theirs / ours,
                "target": target,
                "met": theirs / ours >= target and ours < limit,
                "ours_s": ours,
                "theirs_s": theirs,
                "work": WORK[key].format(images=images),
                "microseconds_of_a_read": 1e6 * median(p[0]["read"] for p in pairs) / READS,
            }
        )
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("store", "pickle"):
        child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        args = make_parser(__doc__).parse_args()
        count = IMAGES // 10 if args.quick else IMAGES
        report(rows_of(count, repeats=3), args.json)
