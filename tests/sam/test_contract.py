"""What every SAM backend must do, ours and a user's own alike."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from weaksam_d2.artifacts import Prompts
from weaksam_d2.ops import masks_to_boxes, stability_score
from weaksam_d2.sam import (
    SAM_BACKEND_REGISTRY,
    Embedding,
    SamBackend,
    SamChunk,
)

ALL = frozenset({"boxes", "logits", "masks"})
NETWORKS = ["SegmentAnything", "SAMTransformers", "SAM2", "SAMHQ", "EdgeTAM"]
OWN = "SquareSam"
COUNTS = [1, 3, 0, 1, 2, 1, 3, 1]  # points of each prompt; row 2 is a box, row 3 has one as well
BOXES = {2: [30.5, 20.0, 120.0, 90.0], 3: [10.0, 15.0, 80.0, 100.0]}


class SquareSam:
    """A user's backend: a square around the first point, or the box."""

    def __init__(self, cfg: Any = None, prompts_per_batch: int = 64) -> None:
        self.prompts_per_batch = prompts_per_batch

    def encode(self, image: np.ndarray) -> Embedding:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(f"image must be uint8 (H, W, 3), got {image.dtype} {image.shape}")
        size = (image.shape[0], image.shape[1])
        return Embedding(torch.zeros(1, 1, 1, 1), size, size)

    def decode(
        self,
        embedding: Embedding,
        prompts: Prompts,
        *,
        want: frozenset[str] = frozenset({"boxes"}),
        multimask: bool = True,
    ) -> Iterator[SamChunk]:
        if want - ALL:
            raise ValueError(f"want must be among {sorted(ALL)}, got {sorted(want)}")
        for start in range(0, len(prompts), self.prompts_per_batch):
            rows = range(start, min(start + self.prompts_per_batch, len(prompts)))
            logits = torch.stack([self._draw(prompts, row, embedding.image_size) for row in rows])
            logits = logits if multimask else logits[:, :1]
            yield SamChunk(
                start=start,
                boxes=masks_to_boxes(logits > 0),
                quality=torch.full(logits.shape[:2], 0.5),
                stability=stability_score(logits),
                logits=logits if "logits" in want else None,
                masks=logits > 0 if "masks" in want else None,
            )

    def _draw(self, prompts: Prompts, row: int, size: tuple[int, int]) -> Tensor:
        points = prompts.points[prompts.offsets[row] : prompts.offsets[row + 1]]
        center, radius = (points[0], 20.0) if len(points) else (np.full(2, 50.0), 30.0)
        y, x = torch.meshgrid(*(torch.arange(n) + 0.5 for n in size), indexing="ij")
        distance = torch.maximum((x - float(center[0])).abs(), (y - float(center[1])).abs())
        return torch.stack([scale * radius - distance for scale in (0.5, 1.0, 2.0)])


@pytest.fixture(scope="module", autouse=True)
def _own_backend_is_registered() -> Iterator[None]:
    SAM_BACKEND_REGISTRY._do_register(OWN, SquareSam)
    yield
    del SAM_BACKEND_REGISTRY._obj_map[OWN]


@dataclass
class Case:
    """A backend of the registry; ``model`` is None where there is no network."""

    name: str
    model: Any
    processor: Any

    def build(self, batch: int = 64, model: Any = None) -> Any:
        backend = SAM_BACKEND_REGISTRY.get(self.name)
        if self.model is None:
            return backend(prompts_per_batch=batch)
        arguments = {"processor": self.processor} if self.processor is not None else {}
        return backend(model=model or self.model, prompts_per_batch=batch, **arguments)


def _params(names: list[str]) -> list[Any]:
    return [
        pytest.param(name, marks=pytest.mark.assets if name == "SegmentAnything" else ())
        for name in names
    ]


@pytest.fixture(params=_params([*NETWORKS, "FakeSam", OWN]))
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(request)


@pytest.fixture(params=_params(NETWORKS))
def network(request: pytest.FixtureRequest) -> Case:
    return make_case(request)


def make_case(request: pytest.FixtureRequest) -> Case:
    name = request.param
    if name in ("FakeSam", OWN):
        return Case(name, None, None)
    if name == "SegmentAnything":
        return Case(name, request.getfixturevalue("model"), None)
    return Case(name, *request.getfixturevalue("tiny")(name))


def decode(backend: SamBackend, embedding: Embedding, prompts: Prompts, **kw: Any) -> SamChunk:
    """All chunks, joined; everything is asked for."""
    chunks = list(backend.decode(embedding, prompts, **{"want": ALL, **kw}))
    starts = np.cumsum([0, *(len(c.boxes) for c in chunks)])
    assert [c.start for c in chunks] == starts[:-1].tolist()
    assert starts[-1] == len(prompts)
    names = ("boxes", "quality", "stability", "logits", "masks")
    return SamChunk(0, **{n: torch.cat([getattr(c, n) for c in chunks]) for n in names})


def assert_same(ours: SamChunk, theirs: SamChunk) -> None:
    """Equal up to rounding; a pixel at the very threshold may fall on either side."""
    assert ours.logits is not None and theirs.logits is not None
    scale = float(theirs.logits.std())
    torch.testing.assert_close(ours.logits, theirs.logits, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(ours.quality, theirs.quality, atol=1e-4, rtol=1e-4)
    assert ours.masks is not None and theirs.masks is not None
    assert (ours.masks != theirs.masks).float().mean() < 1e-3


def test_every_backend_is_in_this_suite() -> None:
    ours = {n for n, c in SAM_BACKEND_REGISTRY if c.__module__.startswith("weaksam_d2.sam")}
    assert ours == {*NETWORKS, "FakeSam"}


def test_shapes_types_and_what_was_not_wanted(case: Case, image: np.ndarray, make: Any) -> None:
    backend = case.build(batch=3)
    assert isinstance(backend, SamBackend)
    prompts = make(COUNTS, image.shape[:2], BOXES)
    embedding = backend.encode(image)
    assert embedding.image_size == image.shape[:2]
    for multimask, masks in ((True, 3), (False, 1)):
        for chunk in backend.decode(embedding, prompts, multimask=multimask):
            assert chunk.logits is None and chunk.masks is None
            assert chunk.boxes.shape == (min(3, len(prompts) - chunk.start), masks, 4)
            assert chunk.quality.shape == chunk.stability.shape == chunk.boxes.shape[:2]
            assert chunk.boxes.dtype == chunk.quality.dtype == chunk.stability.dtype
            assert chunk.boxes.dtype == torch.float32
            assert chunk.quality.isfinite().all()
    whole = decode(backend, embedding, prompts)
    assert whole.masks is not None and whole.logits is not None
    assert whole.masks.shape == (len(prompts), 3, *image.shape[:2])
    assert whole.masks.dtype == torch.bool and whole.logits.dtype == torch.float32


def test_chunk_size_and_company_change_nothing(case: Case, image: np.ndarray, make: Any) -> None:
    prompts = make(COUNTS, image.shape[:2], BOXES)
    embedding = case.build().encode(image)
    together = decode(case.build(), embedding, prompts)
    for batch in (1, 3):
        assert_same(decode(case.build(batch), embedding, prompts), together)
    alone = decode(case.build(), embedding, prompts.select(np.array([6])))
    assert together.logits is not None and together.masks is not None
    row = {n: getattr(together, n)[6:7] for n in ("boxes", "quality", "stability")}
    assert_same(alone, SamChunk(0, **row, logits=together.logits[6:7], masks=together.masks[6:7]))


def test_boxes_are_tight_and_half_open(case: Case, image: np.ndarray, make: Any) -> None:
    backend = case.build()
    result = decode(backend, backend.encode(image), make(COUNTS, image.shape[:2], BOXES))
    assert result.masks is not None and result.masks.any()
    boxes = result.boxes.flatten(0, 1).numpy()
    for mask, box in zip(result.masks.flatten(0, 1).numpy(), boxes, strict=True):
        y, x = np.nonzero(mask)
        if len(x):
            assert box.tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]
        else:
            assert np.isnan(box).all()


def test_an_empty_mask_has_no_box(case: Case, image: np.ndarray, make: Any) -> None:
    prompts = make([1, 2], image.shape[:2])
    prompts.points[:] = -1000  # far outside: nothing there for the backends that draw
    model = None
    if case.model is not None:
        model = copy.deepcopy(case.model)
        decoder = model.mask_decoder
        heads = [decoder.output_hypernetworks_mlps, getattr(decoder, "hq_mask_mlp", None)]
        for parameter in (p for head in heads if head is not None for p in head.parameters()):
            parameter.data.zero_()  # every logit is 0
    backend = case.build(model=model)
    result = decode(backend, backend.encode(image), prompts)
    assert result.masks is not None and not result.masks.any()
    assert result.boxes.isnan().all()


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (3, 40), (40, 3), (30, 30)])
def test_odd_images_work(case: Case, size: tuple[int, int], make: Any) -> None:
    gray = np.random.default_rng(0).integers(0, 255, (*size, 1), dtype=np.uint8)
    backend = case.build()
    result = decode(backend, backend.encode(gray.repeat(3, axis=2)), make([1, 2], size))
    assert result.masks is not None and result.masks.shape == (2, 3, *size)
    limit = torch.tensor([size[1], size[0], size[1], size[0]])
    boxes = result.boxes[~result.boxes.isnan().any(-1)]
    assert (boxes >= 0).all() and (boxes <= limit).all()


@pytest.mark.parametrize(
    ("shape", "dtype"), [((8, 9), np.uint8), ((8, 9, 1), np.uint8), ((8, 9, 3), np.float32)]
)
def test_a_wrong_image_is_named(case: Case, shape: tuple[int, ...], dtype: Any) -> None:
    with pytest.raises(ValueError, match=rf"{np.dtype(dtype)} \(8, 9.*\)"):
        case.build().encode(np.zeros(shape, dtype))


def test_wrong_requests_and_no_prompts(case: Case, image: np.ndarray, make: Any) -> None:
    backend = case.build()
    embedding = backend.encode(image)
    assert list(backend.decode(embedding, make([], image.shape[:2]))) == []
    with pytest.raises(ValueError, match="'segments'"):
        list(backend.decode(embedding, make([1], (9, 9)), want=frozenset({"segments"})))
    if case.name != OWN:
        with pytest.raises(ValueError, match="prompt 1 has neither points nor a box"):
            list(backend.decode(embedding, make([1, 0], (9, 9))))


def test_a_box_is_another_prompt_than_its_point(case: Case, image: np.ndarray, make: Any) -> None:
    backend = case.build()
    embedding = backend.encode(image)
    prompts = make([0, 1], image.shape[:2], {0: [30.0, 20.0, 80.0, 90.0]})
    result = decode(backend, embedding, prompts)
    assert result.logits is not None
    assert (result.logits[0] - result.logits[1]).abs().max() > 1e-2 * result.logits.std()


def test_an_image_is_encoded_once(network: Case, image: np.ndarray, make: Any) -> None:
    backend = network.build(batch=2)
    encoder = network.model.get_submodule(
        "image_encoder" if network.name == "SegmentAnything" else "vision_encoder"
    )
    calls: list[int] = []
    handle = encoder.register_forward_hook(lambda *_: calls.append(1))
    try:
        embedding = backend.encode(image)
        for _ in range(2):
            decode(backend, embedding, make(COUNTS, image.shape[:2], BOXES))
    finally:
        handle.remove()
    assert len(calls) == 1


def test_an_embedding_of_another_network_is_refused(network: Case, make: Any) -> None:
    wrong = Embedding(torch.zeros(1, 32, 3, 5), (8, 8), (8, 8))
    with pytest.raises(ValueError, match=r"\(3, 5\) cells .* encode with the backend"):
        list(network.build().decode(wrong, make([1], (8, 8))))


def _library_alone(case: Case, multimask: bool) -> Callable[..., tuple[Tensor, ...]]:
    """Function from (image, points, box) to logits, quality and masks, by the library's tools."""
    if case.name == "SegmentAnything":
        from segment_anything import SamPredictor

        predictor = SamPredictor(case.model)

        def predict(image: np.ndarray, points: Any, box: Any) -> tuple[Tensor, ...]:
            if not predictor.is_image_set:
                predictor.set_image(image)
            labels = None if points is None else np.ones(len(points))
            masks, quality, low = predictor.predict(points, labels, box, multimask_output=multimask)
            return torch.from_numpy(low), torch.from_numpy(quality), torch.from_numpy(masks)

        return predict
    import transformers

    kind = {"SAMTransformers": "SamProcessor", "SAMHQ": "SamHQProcessor"}
    processor = getattr(transformers, kind.get(case.name, "Sam2Processor"))(case.processor)

    def run(image: np.ndarray, points: Any, box: Any) -> tuple[Tensor, ...]:
        inputs = processor(
            images=image,
            input_points=None if points is None else [[points.tolist()]],
            input_labels=None if points is None else [[[1] * len(points)]],
            input_boxes=None if box is None else [[box.tolist()]],
            return_tensors="pt",
        )
        sizes = [inputs.pop("original_sizes")]
        if "reshaped_input_sizes" in inputs:
            sizes.append(inputs.pop("reshaped_input_sizes"))
        output = case.model(**inputs, multimask_output=multimask)
        masks = case.processor.post_process_masks(output.pred_masks, *sizes)
        return output.pred_masks[0, 0], output.iou_scores[0, 0], masks[0][0]

    return run


@torch.no_grad()
@pytest.mark.parametrize("multimask", [True, False])
def test_every_prompt_equals_the_library_alone(
    network: Case, image: np.ndarray, make: Any, multimask: bool
) -> None:
    prompts = make(COUNTS, image.shape[:2], BOXES)
    backend = network.build(batch=5)
    ours = decode(backend, backend.encode(image), prompts, multimask=multimask)
    alone = _library_alone(network, multimask)
    assert ours.logits is not None and ours.masks is not None
    for row in range(len(prompts)):
        points = prompts.points[prompts.offsets[row] : prompts.offsets[row + 1]]
        box = np.asarray(BOXES[row]) if row in BOXES else None
        logits, quality, masks = alone(image, points if len(points) else None, box)
        torch.testing.assert_close(ours.logits[row], logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(ours.quality[row], quality, atol=1e-4, rtol=1e-4)
        assert (ours.masks[row] != masks).float().mean() < 1e-3
