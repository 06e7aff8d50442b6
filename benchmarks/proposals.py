"""Proposals: one embedding and batched decoding against the release's way, and the parts of it.

Example:
    python benchmarks/proposals.py --quick --json output/bench/proposals.json
    python benchmarks/proposals.py --choose     # which input size and batch, on this machine
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from time import perf_counter
from typing import Any

import numpy as np
import torch
from _harness import Comparison, format_table, make_parser, measure, report
from segment_anything import SamPredictor
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score
from torch import Tensor
from torch.nn import functional as F

from weaksam_d2.artifacts import Prompts
from weaksam_d2.ops.maps import max_pool_same
from weaksam_d2.ops.peaks import grid_points
from weaksam_d2.sam import SegmentAnything, build_sam
from weaksam_d2.sam.decoder import SharedMaskDecoder
from weaksam_d2.sam.upsampling import MaskReader

IMAGE_SIZE = (375, 500)
NUM_CLASSES = 2  # tags of the image; VOC has 1.5 on average
PEAKS = 6  # single peaks of each class and source
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "8589934592",
    "MALLOC_TRIM_THRESHOLD_": "17179869184",
}


def draw_image() -> np.ndarray:
    """Discs on a shaded ground, uint8 (375, 500, 3): the decoder's cost does not depend on it."""
    y, x = np.mgrid[: IMAGE_SIZE[0], : IMAGE_SIZE[1]]
    image = np.stack([x * 0.3, y * 0.4, 90 + 0 * x], axis=-1)
    for i, (cx, cy, r) in enumerate([(120, 150, 70), (330, 220, 90), (420, 80, 40)]):
        image[(x - cx) ** 2 + (y - cy) ** 2 < r * r] = np.roll((220, 130, 40), i)
    noise = np.random.default_rng(0).normal(0, 6, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def prompt_groups(side: int) -> list[tuple[str, Prompts]]:
    """The groups that the release encodes the image for: grid, peaks and joint peaks, cross."""
    rng = np.random.default_rng(0)
    names = ("Grid", "Peaks", "Joint")

    def single(points: np.ndarray, source: str) -> Prompts:
        return Prompts.single_points(points, source=source, source_names=names)

    def random(n: int) -> np.ndarray:
        return (rng.random((n, 2)) * IMAGE_SIZE[::-1]).astype(np.float32)

    groups = [("Grid", single(grid_points(*IMAGE_SIZE, side), "Grid"))]
    for _ in ("coarse", "fine"):
        groups.append(("Peaks", single(random(PEAKS * NUM_CLASSES), "Peaks")))
        for _ in range(NUM_CLASSES):
            joint = Prompts(
                points=random(PEAKS),
                offsets=np.array([0, PEAKS]),
                scores=np.ones(1),
                classes=np.zeros(1),
                sources=np.full(1, names.index("Joint")),
                source_names=names,
            )
            groups.append(("Joint", joint))
    groups.append(("Peaks", single(random(PEAKS * NUM_CLASSES), "Peaks")))
    return groups


def release_boxes(model: Any, image: np.ndarray, groups: list[tuple[str, Prompts]]) -> Tensor:
    """Boxes (P, 3, 4) the release's way: an encoding for each group, a call for each peak."""
    boxes = []
    predictor = SamPredictor(model)
    for source, prompts in groups:
        predictor.set_image(image)
        step = 64 if source == "Grid" else 1
        for start in range(0, len(prompts), step):
            part = prompts.select(np.arange(start, min(start + step, len(prompts))))
            coords = predictor.transform.apply_coords(part.points, predictor.original_size)
            points = torch.as_tensor(coords, dtype=torch.float32)
            points = points.reshape(len(part), -1, 2).to(predictor.device)
            masks = predictor.predict_torch(points, torch.ones(points.shape[:2]).to(points))[0]
            boxes.append(half_open(masks).cpu())
    return torch.cat(boxes)


def half_open(masks: Tensor) -> Tensor:
    boxes = batched_mask_to_box(masks).float() + masks.new_tensor([0, 0, 1, 1]).float()
    return boxes.masked_fill(~masks.any(-1).any(-1)[..., None], float("nan"))


def our_boxes(backend: SegmentAnything, image: np.ndarray, prompts: Prompts) -> Tensor:
    return torch.cat([c.boxes.cpu() for c in backend.decode(backend.encode(image), prompts)])


def same_boxes(ours: Tensor, theirs: Tensor) -> None:
    """Within a pixel; a mask of a few pixels at the threshold may vanish by rounding."""
    both = ~(ours.isnan() | theirs.isnan()).any(-1)
    assert (ours.isnan() == theirs.isnan()).float().mean() > 0.995
    close = (ours - theirs)[both].abs().amax(-1) <= 1
    assert close.float().mean() > 0.995, f"{int((~close).sum())} boxes differ"


def same_tensors(ours: Any, theirs: Any) -> None:
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-4, equal_nan=True)


def comparisons(quick: bool) -> Iterator[Comparison[Any]]:
    size, side, repeats = (512, 6, 3) if quick else (1024, 16, 3)
    model = build_sam(arch="vit_t", input_size=size, device="auto")
    image, groups = draw_image(), prompt_groups(side)
    backend = SegmentAnything(model=model, prompts_per_batch=64)
    joined = Prompts.concatenate([prompts for _, prompts in groups])
    yield Comparison(
        stage="proposals",
        against=f"{len(groups)} encodings, one call for each peak",
        work=f"MobileSAM {size}, {len(joined)} prompts",
        target=2.5,
        ours=lambda: our_boxes(backend, image, joined),
        theirs=lambda: release_boxes(model, image, groups),
        check=same_boxes,
        repeats=repeats,
    )
    yield decoder_comparison(model, backend, image, size, repeats)
    yield reading_comparison(model, size, repeats)
    cam = np.random.default_rng(0).random(IMAGE_SIZE, dtype=np.float32)
    for window, target in ((17, 2.0), (129, 20.0)):
        yield Comparison(
            stage="peaks",
            against="max pooling, k x k for each pixel",
            work=f"window {window}, one {IMAGE_SIZE[0]} x {IMAGE_SIZE[1]} map",
            target=target,
            ours=lambda window=window: torch.from_numpy(max_pool_same(cam, window)),
            theirs=lambda window=window: F.max_pool2d(
                torch.from_numpy(cam)[None, None], window, 1, window // 2
            )[0, 0],
            check=lambda ours, theirs: torch.testing.assert_close(ours, theirs, atol=0, rtol=0),
            repeats=1 if quick and window > 100 else repeats,
        )


@torch.no_grad()
def decoder_comparison(
    model: Any, backend: SegmentAnything, image: np.ndarray, size: int, repeats: int
) -> Comparison[Any]:
    """The mask decoder alone, 16 single points."""
    features = backend.encode(image).features
    encoder = model.prompt_encoder
    position = encoder.get_dense_pe()
    points = torch.rand(16, 1, 2, generator=torch.Generator().manual_seed(0)) * size * 0.7
    labels = torch.ones(16, 1)
    sparse, dense = encoder((points.to(features), labels.to(features)), None, None)
    shared = SharedMaskDecoder(model.mask_decoder)

    def ours() -> Any:
        tokens = shared.prepare(features, position, encoder.no_mask_embed.weight)
        return shared.decode(tokens, sparse)

    @torch.no_grad()
    def theirs() -> Any:
        return model.mask_decoder(
            image_embeddings=features,
            image_pe=position,
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=True,
        )

    return Comparison(
        stage="proposals",
        against="segment_anything's mask decoder",
        work=f"{size} input, 16 points",
        target=1.5,
        ours=ours,
        theirs=theirs,
        check=same_tensors,
        repeats=repeats,
    )


def reading_comparison(model: Any, size: int, repeats: int) -> Comparison[Any]:
    """Boxes and stability out of low-resolution logits."""
    height, width = IMAGE_SIZE
    input_size = (int(height * size / width + 0.5), size)
    low = size // 4
    coarse = torch.randn(16, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 8
    logits = F.interpolate(coarse, (low, low), mode="bicubic").to(model.device)
    reader = MaskReader(
        low_size=(low, low), square=size, input_size=input_size, image_size=IMAGE_SIZE
    )

    def theirs() -> Any:
        full = model.postprocess_masks(logits, input_size, IMAGE_SIZE)
        return half_open(full > 0), calculate_stability_score(full, 0.0, 1.0)

    def check(ours: Any, theirs: Any) -> None:
        same_boxes(ours[0], theirs[0])
        torch.testing.assert_close(ours[1], theirs[1], atol=1e-3, rtol=0)

    return Comparison(
        stage="proposals",
        against="two interpolations through the network's square",
        work=f"{size} input, boxes of 48 masks at {height} x {width}",
        target=1.2,
        ours=lambda: reader.read(logits)[:2],
        theirs=theirs,
        check=check,
        repeats=repeats,
    )


def time_setting(size: int, batch: int) -> dict[str, float]:
    """Seconds for an encoding, and milliseconds for a decoded point with its three boxes."""
    model = build_sam(arch="vit_t", input_size=size, device="auto")
    backend = SegmentAnything(model=model, prompts_per_batch=batch)
    image, points = draw_image(), grid_points(*IMAGE_SIZE, 8)
    prompts = Prompts.single_points(points, source="Grid", source_names=("Grid",))
    encode_s, decode_s = [], []
    for _ in range(3):
        start = perf_counter()
        embedding = backend.encode(image)
        middle = perf_counter()
        for _ in backend.decode(embedding, prompts):
            pass
        encode_s.append(middle - start)
        decode_s.append(perf_counter() - middle)
    return {
        "encode_s": sorted(encode_s)[1],
        "decode_ms": sorted(decode_s)[1] / len(prompts) * 1000,
    }


def choose(quick: bool) -> list[dict[str, Any]]:
    """A row for each input size, batch and allocator setting; each in a process of its own.

    glibc reads the allocator's variables once, when a process starts.
    """
    rows: list[dict[str, Any]] = []
    plain = {k: v for k, v in os.environ.items() if k not in ALLOCATOR}
    for size in (512, 1024) if quick else (512, 768, 1024):
        for batch in (4, 64) if quick else (4, 8, 16, 32, 64):
            for allocator in (False, True):
                command = [sys.executable, __file__, "--time-setting", f"{size},{batch}"]
                environment = {**plain, **(ALLOCATOR if allocator else {})}
                done = subprocess.run(
                    command, env=environment, check=True, capture_output=True, text=True
                )
                setting = {"size": size, "batch": batch, "allocator": allocator}
                rows.append({**setting, **json.loads(done.stdout.splitlines()[-1])})
    return rows


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--choose", action="store_true", help="time sizes and batches instead")
    parser.add_argument("--time-setting", metavar="SIZE,BATCH", help="one setting, as JSON")
    args = parser.parse_args()
    if args.time_setting:
        size, batch = map(int, args.time_setting.split(","))
        print(json.dumps(time_setting(size, batch)))
    elif args.choose:
        rows = choose(args.quick)
        print(format_table(rows, list(rows[0])))
        if args.json is not None:
            args.json.write_text(json.dumps(rows, indent=1))
    else:
        report([measure(comparison) for comparison in comparisons(args.quick)], args.json)


if __name__ == "__main__":
    main()
