"""Adaptive pseudo ground truth: against loops over boxes, at COCO's size, and memory of the file.

Example:
    python benchmarks/pseudo_gt.py --quick --json output/bench/pseudo_gt.json

82,000 images (COCO 2014 train) of 300 detections are made and chosen in arrays of 1,000 images; the
limit is a minute (--quick: a tenth of both), in CPU seconds, which another load on the machine
changes less; so are the seconds of the file road. That road, JSON to JSON, runs in fresh
processes, streamed and with everything in memory; its annotations must be equal, and its peak
memory is that above the imports.
"""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
from _harness import Comparison, make_parser, measure, report

from weaksam_d2.artifacts import (
    CategoryMap,
    DetectionsFile,
    read_detections,
    read_pseudo_gt,
    write_pseudo_gt,
)
from weaksam_d2.ops import Selection, select_adaptive
from weaksam_d2.pseudo_gt import AdaptiveRule, generate_pseudo_gt, stream_pseudo_gt

IMAGES, PER_IMAGE, CLASSES, TAGS, CHUNK = 82_000, 300, 80, 3, 1_000
LIMIT = 60.0  # seconds for IMAGES
Arrays = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def make(images: int, seed: int) -> Arrays:
    """Boxes around a few objects of each of 3 tags, scores mostly low: (boxes, scores, keys, tags).

    Keys are image * 80 + class.
    """
    rng = np.random.default_rng(seed)
    tags = (
        np.argsort(rng.random((images, CLASSES)), axis=1)[:, :TAGS]
        + CLASSES * np.arange(images)[:, None]
    )
    tag = rng.integers(0, TAGS, (images, PER_IMAGE))
    keys = np.take_along_axis(tags, tag, axis=1).ravel()
    thing = rng.uniform(0, 400, (images, TAGS, 4, 4))  # four objects: center, and two to size
    chosen = thing[np.arange(images)[:, None], tag, rng.integers(0, 4, tag.shape)]
    center = chosen[..., :2] + rng.normal(0, 15, chosen[..., :2].shape)
    half = (10 + chosen[..., 2:] / 4) * rng.uniform(0.3, 1.2, (*tag.shape, 2))
    boxes = np.concatenate([center - half, center + half], axis=-1).reshape(-1, 4)
    scores = rng.beta(0.5, 1.0, images * PER_IMAGE)
    return boxes.clip(0, 640), scores, keys, tags.ravel()


def crowded(images: int) -> Arrays:
    """One tag for an image, all its boxes anywhere and of any score: most of them survive."""
    rng = np.random.default_rng(0)
    center = rng.uniform(0, 400, (images * PER_IMAGE, 2))
    half = rng.uniform(5, 80, center.shape)
    keys = np.arange(images)
    boxes = np.concatenate([center - half, center + half], axis=1)
    return boxes, rng.random(len(boxes)), keys.repeat(PER_IMAGE), keys


def loop_over_boxes(arrays: Arrays, *, literal: bool) -> Selection:
    """The rule as one writes it down: images, classes, boxes, pairs of boxes; plain numbers."""
    boxes, scores, keys, tags = (array.tolist() for array in arrays)
    rows_of: dict[int, list[int]] = {}
    for row, (x1, y1, x2, y2) in enumerate(boxes):
        if x2 > x1 and y2 > y1:
            rows_of.setdefault(keys[row], []).append(row)
    index: list[int] = []
    norms: list[float] = []
    for tag in sorted(tags):
        rows = sorted(rows_of.get(tag, []), key=lambda row: -scores[row])
        if not rows:
            continue
        low, spread = scores[rows[-1]], scores[rows[0]] - scores[rows[-1]]
        norm = {row: (scores[row] - low) / spread if spread > 1e-12 else 1.0 for row in rows}
        good = [row for row in rows if norm[row] >= 0.3]
        kept = _as_printed(good, boxes) if literal else _uncontained(good, boxes)
        index += [row for row in rows if row in kept]
        norms += [norm[row] for row in rows if row in kept]
    return Selection(np.array(index, np.int64), np.array(norms, np.float32))


def _inside(a: list[float], b: list[float]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height) / ((a[2] - a[0]) * (a[3] - a[1]))


def _as_printed(rows: list[int], boxes: list[list[float]]) -> set[int]:
    """Algorithm 2, lines 14 and 15: against all others."""
    return {j for j in rows if all(_inside(boxes[j], boxes[k]) < 0.85 for k in rows if k != j)}


def _uncontained(rows: list[int], boxes: list[list[float]]) -> set[int]:
    """Our default: by falling area, against those that are kept, up to the first that contains."""
    area = {row: (boxes[row][2] - boxes[row][0]) * (boxes[row][3] - boxes[row][1]) for row in rows}
    kept: list[int] = []
    for j in sorted(rows, key=lambda row: -area[row]):
        if all(_inside(boxes[j], boxes[k]) < 0.85 for k in kept):
            kept.append(j)
    return set(kept)


def same(ours: Selection, theirs: Selection) -> None:
    np.testing.assert_array_equal(ours.index, theirs.index)
    np.testing.assert_array_equal(ours.score_norm, theirs.score_norm)


def against_the_loops(quick: bool) -> Iterator[dict[str, Any]]:
    count = 20 if quick else 100  # long enough that other processes meet both alike
    # NOTE: few boxes of a class survive where there are three tags, and the loop ends early.
    for literal, arrays, target in ((True, crowded(count), 50.0), (False, make(20, 0), 3.0)):
        rule = "as printed, 1 crowded tag" if literal else "by area, 3 tags"
        contain = "literal" if literal else "area"
        yield measure(
            Comparison(
                stage="pseudo_gt",
                against="Python loops over images, classes, boxes and pairs",
                work=f"adaptive {rule}, {len(arrays[0])} detections",
                target=target,
                ours=partial(select_adaptive, *arrays, contain=contain),
                theirs=partial(loop_over_boxes, arrays, literal=literal),
                check=same,
            )
        )


def whole_set(images: int) -> dict[str, Any]:
    seconds, chosen = 0.0, 0
    for seed in range(images // CHUNK):
        arrays = make(CHUNK, seed)
        start = process_time()
        chosen += len(select_adaptive(*arrays).index)
        seconds += process_time() - start
    limit = LIMIT * images / IMAGES
    work = f"adaptive, {images} images x {PER_IMAGE} detections, {chosen} chosen"
    return row_of("a minute for 82,000 images", work, seconds, limit, 1.0)


def row_of(against: str, work: str, ours: float, theirs: float, target: float) -> dict[str, Any]:
    figures = {"ratio": theirs / ours, "target": target, "met": theirs / ours >= target}
    row = {"stage": "pseudo_gt", "against": against, **figures}
    return {**row, "ours_s": ours, "theirs_s": theirs, "work": work}


def write(path: Path, images: int) -> None:
    """A COCO results list, written line by line."""
    with open(path, "w") as file:
        file.write("[")
        for first in range(0, images, 100):
            boxes, scores, keys, _ = make(min(100, images - first), seed=first)
            for place, line in enumerate(lines(boxes, scores, keys, first)):
                file.write((",\n" if first or place else "\n") + line)
        file.write("\n]\n")


def lines(boxes: np.ndarray, scores: np.ndarray, keys: np.ndarray, first: int) -> Iterator[str]:
    for (x1, y1, x2, y2), score, key in zip(
        boxes.tolist(), scores.tolist(), keys.tolist(), strict=True
    ):
        image, label = divmod(key, CLASSES)
        yield json.dumps(
            {
                "image_id": f"{first + image:012d}",
                "category_id": label + 1,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": score,
            }
        )


def child(kind: str, path: Path, images: int) -> None:
    """Make the pseudo ground truth of a file, and print seconds, memory and a digest."""
    size = {"height": 640, "width": 640, "image_labels": list(range(CLASSES))}
    records = [
        {"image_id": f"{i:012d}", "file_name": f"{i:012d}.jpg", **size} for i in range(images)
    ]
    category_map = CategoryMap([f"class {c}" for c in range(CLASSES)])
    target, rule = path.with_name(f"{kind}.json"), AdaptiveRule()
    before, start = peak(), process_time()
    if kind == "stream":
        with ExitStack() as opened:
            source = opened.enter_context(DetectionsFile(path))
            provenance = [{"sha256": "", "bytes": 0}]
            stream_pseudo_gt(
                target, [source], records, category_map, rule=rule, provenance=provenance
            )
    else:
        detections = read_detections(path)
        pgt, _ = generate_pseudo_gt(
            detections, records, category_map, rule=rule, detections_sha256="-"
        )
        write_pseudo_gt(target, pgt)
    figures = {"seconds": process_time() - start, "megabytes": peak() - before}
    annotations = json.dumps(read_pseudo_gt(target).annotations).encode()
    print(json.dumps({**figures, "digest": hashlib.sha256(annotations).hexdigest()}))


def peak() -> float:
    """The most memory that this program had so far, in MB."""
    # ru_maxrss would be that of the process that started it, if that was more.
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def file_road(images: int) -> list[dict[str, Any]]:
    """Memory and seconds of both kinds; theirs is everything in memory."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "detections.json"
        write(path, images)
        found = {}
        for kind in ("stream", "memory"):
            command = [sys.executable, __file__, kind, str(path), str(images)]
            output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            found[kind] = json.loads(output)
    ours, theirs = found["stream"], found["memory"]
    assert ours["digest"] == theirs["digest"]
    work = f"detections.json to pseudo_gt.json, {images} images x {PER_IMAGE}"
    against = "the whole list in memory"
    return [
        row_of(against, f"peak memory of {work}, in MB", ours["megabytes"], theirs["megabytes"], 2),
        row_of(against, work, ours["seconds"], theirs["seconds"], 0.5),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in ("stream", "memory"):
        child(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    else:
        args = make_parser(__doc__).parse_args()
        rows = [*against_the_loops(args.quick), whole_set(IMAGES // 10 if args.quick else IMAGES)]
        for count in (300, 1_200) if args.quick else (1_000, 10_000):
            rows += file_road(count)
        report(rows, args.json)
