"""SAM backends: switches of the encoder, decoding on top of it, and the backends side by side.

On a CPU MobileSAM's encoder is timed with each switch against none; on a GPU also ViT-H's shapes
(random weights, bfloat16): an image with all its prompts must cost at most 2.5 times the bare
encoder for a 32 x 32 grid, 1.3 times for 8 x 8. Those rows are met if ratio >= 1 / 2.5 or 1 / 1.3.

Example:
    python benchmarks/sam_backends.py --quick --json output/bench/sam_backends.json
    python benchmarks/sam_backends.py --compile        # torch.compile takes minutes on a CPU
"""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from _harness import Comparison, make_parser, measure, report
from proposals import IMAGE_SIZE, draw_image

from weaksam_d2.artifacts import Prompts
from weaksam_d2.ops.peaks import grid_points
from weaksam_d2.sam import SegmentAnything, build_sam

SWITCHES: dict[str, dict[str, Any]] = {
    "channels_last": {"channels_last": True},
    "bfloat16": {"dtype": "bfloat16"},
    "bfloat16, channels_last": {"dtype": "bfloat16", "channels_last": True},
    "compile": {"compile": True},
}
# channels_last is the default: it must not cost. The others are measured for whoever chooses.
FLOOR = {"channels_last": 0.95}
TOLERANCE = {"bfloat16": 0.1}  # of the largest feature; rounding alone otherwise
TARGETS = {32: 2.5, 8: 1.3}  # points on a side: whole road over the bare encoder


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def encode(backend: SegmentAnything, image: np.ndarray) -> torch.Tensor:
    features = backend.encode(image).features
    synchronize()
    return features


def near(share: float) -> Callable[[Any, Any], None]:
    """A check that features differ by at most a share of their largest."""

    def check(ours: Any, theirs: Any) -> None:
        difference = float((ours - theirs).abs().max() / theirs.abs().max())
        assert difference <= share, f"features differ by {difference:.2g} of their largest"

    return check


def switch_comparisons(
    model: Any, name: str, names: list[str], repeats: int
) -> Iterator[Comparison[Any]]:
    """Each switch of an encoder against none; copies, since switches change the model in place."""
    image = draw_image()
    plain = SegmentAnything(model=copy.deepcopy(model), channels_last=False)
    for switch in names:
        settings = {"channels_last": False, **SWITCHES[switch]}
        ours = SegmentAnything(model=copy.deepcopy(model), **settings)
        share = TOLERANCE.get(settings.get("dtype", ""), 1e-3)
        yield Comparison(
            stage="encode",
            against="float32, contiguous, eager",
            work=f"{name}: {switch}",
            target=FLOOR.get(switch, 0.0),
            ours=lambda ours=ours: encode(ours, image),
            theirs=lambda: encode(plain, image),
            check=near(share),
            repeats=repeats,
        )


def whole_comparisons(
    model: Any, name: str, sides: list[int], dtype: str, repeats: int
) -> Iterator[Comparison[Any]]:
    """An image with the prompts of a grid against the bare encoder on a ready tensor."""
    image, device = draw_image(), model.device
    backend = SegmentAnything(model=model, prompts_per_batch=256, dtype=dtype)
    size = model.image_encoder.img_size
    pixels = torch.randn(1, 3, size, size, device=device)
    reduced = dtype != "float32"
    kind = torch.bfloat16 if dtype != "float16" else torch.float16

    @torch.no_grad()
    def bare() -> int:
        with torch.autocast(device.type, kind, enabled=reduced):
            model.image_encoder(pixels)
        synchronize()
        return 0

    for side in sides:
        points = grid_points(*IMAGE_SIZE, side)
        prompts = Prompts.single_points(points, source="Grid", source_names=("Grid",))

        def whole(prompts: Prompts = prompts) -> int:
            chunks = backend.decode(backend.encode(image), prompts)
            boxes = torch.cat([chunk.boxes for chunk in chunks]).cpu()
            assert boxes.shape == (len(prompts), 3, 4)
            return 0

        yield Comparison(
            stage="encode and decode",
            against="bare encoder",
            work=f"{name} {dtype}: {side} x {side} grid, boxes at full size",
            target=1 / TARGETS[side],
            ours=whole,
            theirs=bare,
            check=lambda ours, theirs: None,
            repeats=repeats,
        )


def tiny_comparisons(repeats: int) -> Iterator[Comparison[Any]]:
    """Backends on transformers, small random models: batched prompts against one at a time."""
    import transformers

    from weaksam_d2.sam import SAM2, SAMHQ, SAMTransformers

    prompts = {"image_size": 256, "patch_size": 16}
    vision = {
        "image_size": 256,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    vision |= {"global_attn_indexes": [1], "mlp_dim": 128}
    hiera = {"model_type": "sam2_hiera_det_model", "image_size": [256, 256]}
    levels = {"backbone_feature_sizes": [[64, 64], [32, 32], [16, 16]], "backbone_config": hiera}
    pad = {"height": 256, "width": 256}
    padded = transformers.SamImageProcessor(size={"longest_edge": 256}, pad_size=pad)
    square = transformers.Sam2ImageProcessor(size=pad)
    cases: list[tuple[Any, Any, dict[str, Any], dict[str, Any], Any]] = [
        (SAMTransformers, transformers.SamConfig, vision, {}, padded),
        (SAMHQ, transformers.SamHQConfig, vision, {"vit_dim": 64}, padded),
        (SAM2, transformers.Sam2Config, levels, {}, square),
    ]
    image, grid = draw_image(), grid_points(*IMAGE_SIZE, 4)
    points = Prompts.single_points(grid, source="Grid", source_names=("Grid",))
    for backend, config, vision_config, decoder, processor in cases:
        torch.manual_seed(0)
        settings = config(
            vision_config=vision_config,
            prompt_encoder_config=prompts,
            mask_decoder_config=decoder,
        )
        model = getattr(transformers, backend.library_class)(settings).eval().requires_grad_(False)
        together, alone = (
            backend(model=model, processor=processor, prompts_per_batch=batch) for batch in (16, 1)
        )
        embedding = together.encode(image)

        def decode(built: Any, embedding: Any = embedding) -> torch.Tensor:
            return torch.cat([c.quality for c in built.decode(embedding, points)])

        yield Comparison(
            stage="decode",
            against="one prompt at a time",
            work=f"{backend.__name__}, small random model, {len(points)} points",
            target=1.0,
            ours=lambda built=together, decode=decode: decode(built),
            theirs=lambda built=alone, decode=decode: decode(built),
            check=lambda ours, theirs: torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0),
            repeats=repeats,
        )


def build_vit_h(device: str) -> Any:
    """ViT-H with random weights: the cost does not depend on them."""
    from segment_anything import sam_model_registry

    return sam_model_registry["vit_h"]().eval().requires_grad_(False).to(device)


def comparisons(quick: bool, compile_too: bool) -> Iterator[Comparison[Any]]:
    gpu = torch.cuda.is_available()
    names = [name for name in SWITCHES if compile_too or name != "compile"]
    size, repeats = (512, 3) if quick and not gpu else (1024, 5)
    model = build_sam(arch="vit_t", input_size=size, device="auto")
    yield from switch_comparisons(model, f"MobileSAM {size}", names, repeats)
    if gpu:
        huge = build_vit_h("cuda")
        yield from switch_comparisons(huge, "ViT-H 1024", names, repeats)
        yield from whole_comparisons(huge, "ViT-H 1024", [32, 8], "bfloat16", repeats)
    yield from tiny_comparisons(repeats)


def main() -> None:
    parser = make_parser(__doc__)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well")
    args = parser.parse_args()
    rows = [measure(comparison) for comparison in comparisons(args.quick, args.compile)]
    report(rows, args.json)


if __name__ == "__main__":
    main()
