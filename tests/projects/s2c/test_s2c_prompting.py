"""Prompts from activation and what SAM makes of them (wsss.md, Sec. 6.4, item 3)."""

from typing import Any

import numpy as np
import pytest
import torch
from weaksam_d2.projects.s2c import PromptRule, prompt_sam

from weaksam_d2.artifacts import Prompts
from weaksam_d2.engine.cli import base_config
from weaksam_d2.sam import Embedding, FakeSam, SamBackend, build_sam_backend

SIDE = 64
IMAGE = np.zeros((SIDE, SIDE, 3), np.uint8)


class Recorder:
    """Discs, and what was asked for."""

    def __init__(self) -> None:
        self.sam = FakeSam()
        self.prompts: list[Prompts] = []
        self.encoded = 0

    def encode(self, image: np.ndarray) -> Embedding:
        self.encoded += 1
        return self.sam.encode(image)

    def decode(self, embedding: Embedding, prompts: Prompts, **options: Any) -> Any:
        self.prompts.append(prompts)
        return self.sam.decode(embedding, prompts, **options)


def cams(*peaks: list[tuple[int, int]]) -> torch.Tensor:
    maps = torch.zeros(len(peaks), SIDE, SIDE)
    for one, points in zip(maps, peaks, strict=True):
        for order, (x, y) in enumerate(points):
            one[y - 1 : y + 2, x - 1 : x + 2] = 0.8
            one[y, x] = 1 - order / 10
    return maps


def test_all_peaks_of_a_class_are_one_prompt_and_the_image_is_encoded_once() -> None:
    sam = Recorder()
    given = cams([(10, 40), (50, 12)], [(30, 30)])
    found = prompt_sam(sam, IMAGE, given, rule=PromptRule(radius=5))
    (prompts,) = sam.prompts
    assert sam.encoded == 1 and prompts.offsets.tolist() == [0, 2, 3]
    assert prompts.points.tolist() == [[10, 40], [50, 12], [30, 30]]  # x, y
    whole = FakeSam().decode(sam.sam.encode(IMAGE), prompts, want=frozenset({"masks"}))
    expected = next(iter(whole)).masks
    assert expected is not None
    assert found.masks.equal(expected[:, 2])  # the largest of the three
    assert bool(found.masks[0, 40, 10]) and bool(found.masks[0, 12, 50])


def test_another_mask_of_the_three_can_be_chosen() -> None:
    areas = [
        int(
            prompt_sam(
                FakeSam(), IMAGE, cams([(30, 30)]), rule=PromptRule(mask_index=i)
            ).masks.sum()
        )
        for i in range(3)
    ]
    assert areas[0] < areas[1] < areas[2]


@pytest.mark.parametrize("rule", ["lmf", "skimage"])
def test_a_class_without_activation_is_not_asked_for(rule: str) -> None:
    sam = Recorder()
    found = prompt_sam(sam, IMAGE, torch.zeros(2, SIDE, SIDE), rule=PromptRule(rule=rule))
    assert not sam.encoded and not found.masks.any()
    found = prompt_sam(sam, IMAGE, cams([], [(30, 30)]), rule=PromptRule(rule=rule, radius=5))
    assert sam.encoded == 1 and not found.masks[0].any() and found.masks[1].any()


def test_boxes_go_around_the_components_that_hold_a_peak() -> None:
    sam = Recorder()
    given = cams([(10, 40), (50, 12)], [(30, 30)])
    found = prompt_sam(sam, IMAGE, given, rule=PromptRule(radius=5, kind="box", mask_index=1))
    (prompts,) = sam.prompts
    assert not len(prompts.points)
    assert prompts.boxes.tolist() == [[9, 39, 12, 42], [49, 11, 52, 14], [29, 29, 32, 32]]
    assert int(found.masks[0].sum()) == 18 and int(found.masks[1].sum()) == 9


def test_a_mask_of_an_oblong_crop_has_no_part_of_the_padding() -> None:
    class Padded(FakeSam):
        """Logits of SAM's square, of which the image is the upper half."""

        def encode(self, image: np.ndarray) -> Embedding:
            return Embedding(torch.zeros(1, 1, 1, 1), (512, 1024), (32, 64))

        def decode(self, embedding: Embedding, prompts: Prompts, **options: Any) -> Any:
            (chunk,) = super().decode(self_embedding, prompts, **options)
            logits = torch.full((1, 3, 256, 256), -1.0)
            logits[:, :, :128, :64] = 1.0  # the left quarter of the image
            logits[:, :, 128:] = 9.0  # padding
            yield type(chunk)(chunk.start, chunk.boxes, chunk.quality, chunk.stability, logits)

    self_embedding = FakeSam().encode(np.zeros((32, 64, 3), np.uint8))
    oblong = cams([(30, 20)])[:, :32]
    found = prompt_sam(Padded(), np.zeros((32, 64, 3), np.uint8), oblong, rule=PromptRule())
    assert found.masks[0, :31, :16].all() and not found.masks[0, :30, 17:].any()


def test_the_map_itself_can_be_the_prompt_with_its_highest_peak() -> None:
    class MaskPrompted(FakeSam):
        def decode_with_mask(
            self, embedding: Embedding, points: np.ndarray, mask: torch.Tensor
        ) -> torch.Tensor:
            assert points.tolist() == [[10, 40]]
            return torch.stack([mask - 9, mask - 9, mask])

    given = cams([(10, 40), (50, 12)])
    found = prompt_sam(MaskPrompted(), IMAGE, given, rule=PromptRule(radius=5, kind="mask"))
    assert found.masks[0].equal(given[0] > 0.5)  # logit(.5) is 0
    assert float(found.logits.abs().max()) == pytest.approx(6.9068, abs=1e-3)  # logit(.999)


def test_unknown_prompts_and_masks_are_refused() -> None:
    with pytest.raises(ValueError, match="MODEL.S2C.CPM_PROMPT is 'text', allowed: points"):
        PromptRule(kind="text")
    with pytest.raises(ValueError, match="MODEL.S2C.SAM_MASK_INDEX is 3"):
        PromptRule(mask_index=3)


@pytest.mark.assets
def test_mobile_sam_finds_the_disc_that_a_peak_is_on(mobile_sam: Any) -> None:
    cfg = base_config()
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "WEAKSAM.SAM.ARCH", "vit_t", "WEAKSAM.SAM.INPUT_SIZE", 512]
    )
    sam: SamBackend = build_sam_backend(cfg)
    y, x = np.mgrid[:128, :128]
    disc = (x - 40) ** 2 + (y - 60) ** 2 < 25**2
    image = np.full((128, 128, 3), (40, 90, 40), np.uint8)
    image[disc] = (220, 60, 50)
    cam = torch.zeros(1, 128, 128)
    cam[0, 55:66, 35:46] = 0.9
    for kind in ("points", "mask"):
        mask = prompt_sam(sam, image, cam, rule=PromptRule(kind=kind)).masks[0].numpy()
        assert (mask & disc).sum() / (mask | disc).sum() > 0.8, kind
