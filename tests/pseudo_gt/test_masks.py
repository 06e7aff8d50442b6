"""Boxes to masks with a stand-in for SAM, whose masks are known, and with stored masks."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from weaksam_d2.artifacts import Proposals
from weaksam_d2.ops import decode_rle, encode_rle
from weaksam_d2.ops.instance_masks import box_masks
from weaksam_d2.pseudo_gt import MaskSettings, boxes_to_masks, build_mask_settings, stored_masks
from weaksam_d2.sam import FakeSam, SamChunk

SIZE = (40, 60)
BOXES = np.array([[10, 10, 30, 30], [2, 3, 12, 9], [0, 0, 60, 40]], np.float32)


def decoded(masks: Any) -> np.ndarray:
    return decode_rle(masks.codes, SIZE)


def image() -> np.ndarray:
    return np.zeros((*SIZE, 3), np.uint8)


class Scripted:
    """A backend that gives the masks it is told, and writes down how it is asked."""

    def __init__(self, masks: torch.Tensor, quality: torch.Tensor, chunk: int = 2) -> None:
        self.masks, self.quality, self.chunk = masks, quality, chunk
        self.encodings = 0
        self.calls: list[tuple[int, bool]] = []

    def encode(self, pixels: np.ndarray) -> Any:
        self.encodings += 1
        return FakeSam().encode(pixels)

    def decode(
        self, embedding: Any, prompts: Any, *, want: frozenset[str], multimask: bool
    ) -> Iterator[SamChunk]:
        self.calls.append((len(prompts), multimask))
        assert want == {"masks"} and len(prompts.points) == 0
        for start in range(0, len(prompts), self.chunk):
            rows = slice(start, start + self.chunk)
            quality = self.quality[rows]
            yield SamChunk(start, torch.zeros(0), quality, quality, masks=self.masks[rows])


@pytest.mark.parametrize("per_batch", [1, 2, 64])
def test_masks_come_in_the_order_of_their_boxes(per_batch: int) -> None:
    sam = FakeSam(prompts_per_batch=per_batch)
    masks = boxes_to_masks(BOXES, sam.encode(image()), sam, settings=MaskSettings())
    expected = box_masks(torch.from_numpy(BOXES), SIZE)
    assert np.array_equal(decoded(masks), expected.numpy())
    assert np.array_equal(masks.boxes, BOXES)
    assert not masks.fallback.any() and masks.inside.tolist() == [1.0, 1.0, 1.0]


def test_best_of_three_takes_the_quality_and_best_box_the_box() -> None:
    sam = FakeSam()  # half, whole and twice the box, of falling quality
    embedding = sam.encode(image())
    whole = boxes_to_masks(BOXES[:2], embedding, sam, settings=MaskSettings("best_box"))
    assert np.array_equal(whole.boxes, BOXES[:2])
    half = boxes_to_masks(BOXES[:1], embedding, sam, settings=MaskSettings("best_of_3"))
    assert half.boxes.tolist() == [[15.0, 15.0, 25.0, 25.0]]


def test_no_box_asks_for_no_mask() -> None:
    backend = Scripted(torch.zeros(0, 1, *SIZE, dtype=torch.bool), torch.zeros(0, 1))
    masks = boxes_to_masks(BOXES[:0], None, backend, settings=MaskSettings())  # type: ignore[arg-type]
    assert masks.codes == () and masks.boxes.shape == (0, 4) and backend.calls == []


def test_an_empty_mask_is_filled_and_a_mask_outside_is_kept() -> None:
    given = torch.zeros(3, 1, *SIZE, dtype=torch.bool)
    given[1, 0, 30:40, 0:10] = True
    given[2, 0, 5:35, 5:55] = True
    backend = Scripted(given, torch.ones(3, 1))
    masks = boxes_to_masks(BOXES, backend.encode(image()), backend, settings=MaskSettings())
    assert masks.fallback.tolist() == [True, False, False]
    assert np.array_equal(masks.boxes[0], BOXES[0])
    assert np.array_equal(decoded(masks)[1:], given[1:, 0].numpy())
    assert np.isnan(masks.inside[0]) and masks.inside[1:].tolist() == [0.0, 1.0]
    clip = MaskSettings(clip=True)
    clipped = boxes_to_masks(BOXES, backend.encode(image()), backend, settings=clip)
    assert clipped.fallback.tolist() == [True, True, False]


def test_stored_masks_are_found_by_their_box() -> None:
    wanted = box_masks(torch.tensor([[0.0, 0.0, 9.0, 9.0], [10.0, 10.0, 30.0, 30.0]]), SIZE)
    wanted[1, 20:, :] = False
    stored = Proposals(
        np.array([[0, 0, 9, 9], [10, 10, 30, 30]], np.float32),
        SIZE,
        masks=tuple(encode_rle(wanted)),
    )
    near = BOXES + np.array([0.3, 0, 0, -0.2], np.float32)
    found, masks = stored_masks(near, stored, settings=MaskSettings())
    assert found.tolist() == [0] and np.array_equal(decoded(masks)[0], wanted[1].numpy())
    found, masks = stored_masks(BOXES[1:], stored, settings=MaskSettings())
    assert found.tolist() == [] and masks.codes == ()
    bare = Proposals(stored.boxes, SIZE)
    with pytest.raises(ValueError, match="SAVE_MASKS True"):
        stored_masks(BOXES, bare, settings=MaskSettings())


def test_settings_come_from_the_config_and_name_what_is_wrong() -> None:
    from weaksam_d2.engine.cli import base_config

    cfg = base_config()
    assert build_mask_settings(cfg) == MaskSettings("single", "pgt", False)
    cfg.WEAKSAM.INSTANCE_MASKS.MULTIMASK = "three"
    with pytest.raises(ValueError, match=r"INSTANCE_MASKS\.MULTIMASK is 'three'"):
        build_mask_settings(cfg)
    with pytest.raises(ValueError, match=r"INSTANCE_MASKS\.BOX is 'tight'"):
        MaskSettings(box="tight")
