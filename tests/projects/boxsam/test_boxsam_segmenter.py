"""Boxes to instances, with a fake SAM that draws what it is told."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from weaksam_d2.projects.boxsam import BoxSegmenter, ClassBoxes
from weaksam_d2.projects.boxsam.segmenter import _at_size, build_segmenter

from weaksam_d2.artifacts import Prompts, ProposalStore, ProposalStoreWriter
from weaksam_d2.ops import encode_rle
from weaksam_d2.sam import Embedding, FakeSam, SamChunk
from weaksam_d2.sam.upsampling import MaskReader

RECORD = {"image_id": "a"}


class CountingSam(FakeSam):
    """FakeSam that counts its encodings and box prompts."""

    def __init__(self) -> None:
        super().__init__(prompts_per_batch=2)
        self.encoded, self.boxes = 0, 0

    def encode(self, image: np.ndarray) -> Embedding:
        self.encoded += 1
        return super().encode(image)

    def decode(self, embedding: Embedding, prompts: Prompts, **options: Any) -> Iterator[SamChunk]:
        self.boxes += len(prompts)
        return super().decode(embedding, prompts, **options)


def boxes(*rows: tuple[float, ...], classes: tuple[int, ...] = ()) -> ClassBoxes:
    array = np.array(rows, np.float32).reshape(-1, 4)
    kinds = np.array(classes or [0] * len(rows), np.int64)
    return ClassBoxes(array, np.full(len(rows), 0.5, np.float32), kinds)


def test_all_boxes_are_prompts_of_one_encoding(image: np.ndarray) -> None:
    sam = CountingSam()
    given = boxes((4, 4, 24, 24), (30, 10, 50, 34), (0, 0, 60, 40), classes=(2, 0, 1))
    instances, flags = BoxSegmenter(sam)(RECORD, image, given)
    assert (sam.encoded, sam.boxes) == (1, 3) and flags == ()
    assert [one.category for one in instances] == [2, 0, 1]
    # The second of the fake's three masks is the box itself.
    for one, (x0, y0, x1, y1) in zip(instances, given.boxes.astype(int), strict=True):
        expected = np.zeros(image.shape[:2], bool)
        expected[y0:y1, x0:x1] = True
        np.testing.assert_array_equal(one.mask, expected)


def test_nothing_is_encoded_without_boxes(image: np.ndarray) -> None:
    sam = CountingSam()
    assert BoxSegmenter(sam)(RECORD, image, boxes()) == ([], ())
    assert sam.encoded == 0


def test_the_mode_decides_which_mask_and_flags_name_label_ids(image: np.ndarray) -> None:
    given = boxes((4, 4, 24, 24), classes=(2,))
    (best,), _ = BoxSegmenter(FakeSam(), mode="predicted_iou")(RECORD, image, given)
    assert best.mask.sum() == 100  # half of each side, predicted IoU .9
    (low,), flags = BoxSegmenter(_HalfSam(), min_overlap=0.3)(RECORD, image, given)
    assert low.mask.sum() == 100 and flags == ("low_overlap:3",)


class _HalfSam(FakeSam):
    """Three times the mask of half the box's sides."""

    def decode(self, embedding: Embedding, prompts: Prompts, **options: Any) -> Iterator[SamChunk]:
        for chunk in super().decode(embedding, prompts, **options):
            assert chunk.masks is not None
            same = chunk.masks[:, :1].expand_as(chunk.masks)
            yield SamChunk(chunk.start, chunk.boxes, chunk.quality, chunk.stability, masks=same)


class _EmptySam(FakeSam):
    def decode(self, embedding: Embedding, prompts: Prompts, **options: Any) -> Iterator[SamChunk]:
        for chunk in super().decode(embedding, prompts, **options):
            assert chunk.masks is not None
            none = torch.zeros_like(chunk.masks)
            yield SamChunk(chunk.start, chunk.boxes, chunk.quality, chunk.stability, masks=none)


def test_a_box_without_a_mask_gives_no_instance(image: np.ndarray) -> None:
    found = BoxSegmenter(_EmptySam())(RECORD, image, boxes((4, 4, 24, 24), classes=(1,)))
    assert found == ([], ("low_overlap:2", "empty_mask:2"))


def test_logits_are_at_image_size_and_positive_inside_the_mask(cfg: Any, image: np.ndarray) -> None:
    cfg.BOXSAM.FUSE.ORDER = "logit"
    (one,), _ = build_segmenter(cfg)(RECORD, image, boxes((4, 4, 24, 24)))
    assert one.logits is not None and one.logits.shape == image.shape[:2]
    np.testing.assert_array_equal(one.mask, one.logits > 0)
    plain, _ = BoxSegmenter(FakeSam())(RECORD, image, boxes((4, 4, 24, 24)))
    assert plain[0].logits is None


def test_logits_are_resized_as_masks_are() -> None:
    low, (crop, image_size) = (16, 16), ((64, 48), (40, 30))
    logits = torch.randn(low, generator=torch.Generator().manual_seed(0))
    reader = MaskReader(low_size=low, square=64, input_size=crop, image_size=image_size)
    embedding = Embedding(torch.zeros(1, 1, 1, 1), crop, image_size)
    found = _at_size(logits, embedding)
    torch.testing.assert_close(found, reader.upsample(logits), rtol=1e-4, atol=1e-5)


def store(path: Path, masks: np.ndarray) -> ProposalStore:
    with ProposalStoreWriter(path) as writer:
        rows, columns = masks.any(axis=2), masks.any(axis=1)
        tight = [
            (c.argmax(), r.argmax(), len(c) - c[::-1].argmax(), len(r) - r[::-1].argmax())
            for r, c in zip(rows, columns, strict=True)
        ]
        writer.add(
            "a",
            np.array(tight, np.float32).reshape(-1, 4),
            scores=np.ones(len(masks), np.float32),
            masks=encode_rle(masks),
            image_size=masks.shape[1:],
        )
    return ProposalStore.open(path)


def test_stored_masks_are_joined_and_only_boxes_without_any_are_prompts(
    image: np.ndarray, tmp_path: Path
) -> None:
    masks = np.zeros((2, 40, 60), bool)
    masks[0, 4:24, 4:14] = True
    masks[1, 4:24, 14:22] = True
    sam = CountingSam()
    segmenter = BoxSegmenter(sam, mode="everything", automatic=store(tmp_path / "m", masks))
    given = boxes((4, 4, 24, 24), (30, 10, 50, 34))
    instances, flags = segmenter(RECORD, image, given)
    np.testing.assert_array_equal(instances[0].mask, masks.any(axis=0))
    assert instances[1].mask.sum() == 20 * 24 and (sam.encoded, sam.boxes) == (1, 1)
    segmenter(RECORD, image, boxes((4, 4, 24, 24)))
    assert sam.encoded == 1 and flags == ()


def test_settings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--masks"):
        BoxSegmenter(FakeSam(), mode="everything")
    masks = store(tmp_path / "m", np.ones((1, 4, 4), bool))
    with pytest.raises(ValueError, match="contradict"):
        BoxSegmenter(FakeSam(), mode="everything", automatic=masks, with_logits=True)
    with pytest.raises(ValueError, match="MODE 'best'"):
        BoxSegmenter(FakeSam(), mode="best")
    with pytest.raises(ValueError, match="MIN_OVERLAP 2"):
        BoxSegmenter(FakeSam(), min_overlap=2)
