"""Our batched prompting gives what segment_anything's SamPredictor gives, prompt by prompt."""

from typing import Any

import numpy as np
import pytest
import torch
from segment_anything import SamPredictor
from segment_anything.utils.amg import batched_mask_to_box, calculate_stability_score

from weaksam_d2.artifacts import Prompts
from weaksam_d2.sam import SamChunk, SegmentAnything

ALL = frozenset({"boxes", "logits", "masks"})
# Points of each prompt; rows 3 and 6 have a box as well (row 6 a box alone).
COUNTS = [1, 1, 3, 1, 1, 2, 0, 3, 1]
BOXES = {3: [30.0, 20.0, 120.0, 130.0], 6: [10.5, 15.0, 180.0, 140.0]}


def decode(backend: SegmentAnything, image: np.ndarray, prompts: Prompts, **kw: Any) -> SamChunk:
    """All chunks, joined."""
    chunks = list(backend.decode(backend.encode(image), prompts, **kw))
    starts = np.cumsum([0, *(len(c.boxes) for c in chunks)])
    assert [c.start for c in chunks] == starts[:-1].tolist()

    def join(name: str) -> Any:
        parts = [getattr(c, name) for c in chunks]
        return None if parts[0] is None else torch.cat(parts)

    names = ("boxes", "quality", "stability", "logits", "masks")
    return SamChunk(0, **{name: join(name) for name in names})


def predict_alone(
    predictor: SamPredictor, prompts: Prompts, row: int, multimask: bool
) -> tuple[Any, ...]:
    """What segment_anything gives for one prompt, on its own."""
    points = prompts.points[prompts.offsets[row] : prompts.offsets[row + 1]]
    coords = labels = boxes = None
    if len(points):
        moved = predictor.transform.apply_coords(points, predictor.original_size)
        coords = torch.as_tensor(moved, dtype=torch.float32)[None]
        labels = torch.ones(1, len(points))
    if prompts.boxes is not None and not np.isnan(prompts.boxes[row]).any():
        moved = predictor.transform.apply_boxes(prompts.boxes[row], predictor.original_size)
        boxes = torch.as_tensor(moved, dtype=torch.float32)
    full, quality, low = predictor.predict_torch(
        coords, labels, boxes, multimask_output=multimask, return_logits=True
    )
    mask = full[0] > 0
    box = batched_mask_to_box(mask).float() + torch.tensor([0, 0, 1, 1])
    box[~mask.any(dim=(-1, -2))] = float("nan")
    return box, quality[0], calculate_stability_score(full[0], 0.0, 1.0), low[0], mask


@pytest.mark.assets
@pytest.mark.parametrize(("batch", "multimask"), [(64, True), (4, True), (1, True), (64, False)])
def test_every_prompt_is_as_if_alone(
    model: Any, image: np.ndarray, make: Any, batch: int, multimask: bool
) -> None:
    prompts = make(COUNTS, image.shape[:2], BOXES)
    backend = SegmentAnything(model=model, prompts_per_batch=batch)
    ours = decode(backend, image, prompts, want=ALL, multimask=multimask)
    predictor = SamPredictor(model)
    predictor.set_image(image)
    assert ours.logits is not None and ours.masks is not None
    assert ours.boxes.shape == (len(prompts), 3 if multimask else 1, 4)
    for row in range(len(prompts)):
        box, quality, stability, low, mask = predict_alone(predictor, prompts, row, multimask)
        torch.testing.assert_close(ours.logits[row], low, atol=1e-4, rtol=0)
        torch.testing.assert_close(ours.quality[row], quality, atol=1e-5, rtol=0)
        # A pixel at the very threshold may fall on either side.
        assert (ours.masks[row] != mask).float().mean() < 1e-4
        torch.testing.assert_close(ours.boxes[row], box, atol=1.0, rtol=0, equal_nan=True)
        torch.testing.assert_close(ours.stability[row], stability, atol=2e-3, rtol=0)


@pytest.mark.assets
def test_padding_a_joint_prompt_would_change_it(model: Any, image: np.ndarray, make: Any) -> None:
    """Why prompts are grouped by their number of points."""
    prompts = make([1], image.shape[:2])
    scale = 256 / 200
    coords = torch.from_numpy(prompts.points * scale)[None]
    padded = torch.cat([coords, torch.zeros(1, 2, 2)], dim=1)
    predictor = SamPredictor(model)
    predictor.set_image(image)
    alone = predictor.predict_torch(coords, torch.ones(1, 1))[2]
    wrong = predictor.predict_torch(padded, torch.tensor([[1, -1, -1]]))[2]
    assert (alone - wrong).abs().max() > 0.1


@pytest.mark.assets
def test_embedding_equals_set_image(model: Any, image: np.ndarray) -> None:
    embedding = SegmentAnything(model=model).encode(image)
    predictor = SamPredictor(model)
    predictor.set_image(image)
    torch.testing.assert_close(embedding.features, predictor.features, atol=1e-6, rtol=0)
    assert embedding.input_size == predictor.input_size == (192, 256)
    assert embedding.image_size == (150, 200)


@pytest.mark.assets
def test_low_resolution_boxes_are_near_and_in_the_image(
    model: Any, image: np.ndarray, make: Any
) -> None:
    prompts = make([1] * 8, image.shape[:2])
    full = decode(SegmentAnything(model=model), image, prompts, want=ALL)
    low = decode(SegmentAnything(model=model, boxes_at="low"), image, prompts, want=ALL)
    assert full.masks is not None and low.masks is not None
    assert torch.equal(full.masks, low.masks)
    both = ~(full.boxes.isnan() | low.boxes.isnan()).any(-1)
    step = 4 * 200 / 256  # pixels of the image for each logit
    assert ((full.boxes - low.boxes)[both].abs().amax(-1) < 2 * step).float().mean() > 0.7
    assert (low.boxes[both] >= 0).all()
    assert (low.boxes[both] <= torch.tensor([200, 150, 200, 150])).all()
    assert not torch.equal(full.boxes[both], low.boxes[both])


@pytest.mark.assets
def test_only_what_is_wanted_is_returned(model: Any, image: np.ndarray, make: Any) -> None:
    backend = SegmentAnything(model=model)
    chunk = decode(backend, image, make([1], image.shape[:2]))
    assert chunk.logits is None and chunk.masks is None
    with pytest.raises(ValueError, match="segments"):
        decode(backend, image, make([1], image.shape[:2]), want=frozenset({"segments"}))


@pytest.mark.assets
def test_wrong_prompts_and_embeddings_name_themselves(
    model: Any, image: np.ndarray, make: Any
) -> None:
    backend = SegmentAnything(model=model)
    embedding = backend.encode(image)
    assert list(backend.decode(embedding, make([], (150, 200)))) == []
    with pytest.raises(ValueError, match="prompt 1 has neither points nor a box"):
        list(backend.decode(embedding, make([1, 0], (150, 200))))
    other = type(embedding)(torch.zeros(1, 256, 4, 4), (64, 64), (64, 64))
    with pytest.raises(ValueError, match=r"embedding of \(4, 4\) cells"):
        list(backend.decode(other, make([1], (64, 64))))
    with pytest.raises(ValueError, match="prompts_per_batch"):
        SegmentAnything(model=model, prompts_per_batch=0)
    with pytest.raises(ValueError, match="float16"):
        SegmentAnything(model=model, dtype="float16")
    with pytest.raises(ValueError, match="uint8"):
        backend.encode(image.astype(np.float32))


@pytest.mark.assets
def test_bfloat16_changes_the_encoder_only_a_little(model: Any, image: np.ndarray) -> None:
    exact = SegmentAnything(model=model).encode(image).features
    half = SegmentAnything(model=model, dtype="bfloat16").encode(image).features
    assert half.dtype == torch.float32
    relative = (half - exact).norm() / exact.norm()
    assert 0 < relative < 0.06


@pytest.mark.assets
def test_one_pixel_image(model: Any, make: Any) -> None:
    chunk = decode(SegmentAnything(model=model), np.zeros((1, 1, 3), np.uint8), make([1], (1, 1)))
    assert chunk.boxes.shape == (1, 3, 4)
    found = chunk.boxes[~chunk.boxes.isnan().any(-1)]
    assert torch.equal(found, torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(len(found), 4))
