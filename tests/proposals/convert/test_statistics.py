"""Figures of a store, worked out by hand; damaged masks."""

from collections.abc import Callable
from pathlib import Path

import pytest

from weaksam_d2.artifacts import ProposalStore, ProposalStoreWriter
from weaksam_d2.proposals.convert import check_masks, proposal_statistics


def test_figures_of_four_boxes(tmp_path: Path) -> None:
    with ProposalStoreWriter(tmp_path / "p", source_names=("x", "y", "z")) as writer:
        # 4 x 1 px: side 2, aspect 4; 10 x 10: side 10, aspect 1; 100 x 100: the image.
        boxes = [[0, 0, 4, 1], [0, 0, 10, 10], [0, 0, 100, 100]]
        writer.add("a", boxes, sources=[0, 2, 2], image_size=(100, 100))
        writer.add("b", [], image_size=(100, 100))
        # 3 x 12 of 20 x 20: side 6, aspect 1/4, 9 % of the image.
        writer.add("c", [[0, 0, 3, 12]], sources=[0], image_size=(20, 20))
    figures = proposal_statistics(ProposalStore.open(tmp_path / "p"))
    assert {key: value for key, value in figures.items() if isinstance(value, int)} == {
        "images": 3,
        "images_without_boxes": 1,
        "boxes": 4,
    }
    assert figures["boxes_per_image"] == {"mean": 1.33, "median": 1, "min": 0, "max": 3}
    assert figures["sources"] == {"x": 2, "y": 0, "z": 2} and figures["has"] == ["sources"]
    filled = {name: {k: v for k, v in figures[name].items() if v} for name in
              ("side", "aspect", "image_share")}  # fmt: skip
    assert filled == {
        "side": {"0": 50, "8": 25, "96": 25},
        "aspect": {"0.25": 25, "1": 50, "4": 25},
        "image_share": {"0": 25, "0.01": 25, "0.04": 25, "0.9": 25},
    }


@pytest.mark.parametrize("images", [0, 2])
def test_figures_of_no_boxes(tmp_path: Path, images: int) -> None:
    with ProposalStoreWriter(tmp_path / "p") as writer:
        for i in range(images):
            writer.add(str(i), [], image_size=(4, 4))
    figures = proposal_statistics(ProposalStore.open(tmp_path / "p"))
    assert figures["boxes"] == 0 and figures["images_without_boxes"] == images
    assert "side" not in figures and ("boxes_per_image" in figures) == bool(images)


def test_masks_that_do_not_fill_their_image_are_told(
    tmp_path: Path, write_store: Callable[..., ProposalStore]
) -> None:
    assert check_masks(write_store({"a": 3, "b": 0}, masks=True)) == []
    assert check_masks(write_store({"a": 3}, "bare")) == []
    with ProposalStoreWriter(tmp_path / "p") as writer:
        # 4 x 4 pixels: 5 + 11 = 16; 5 + 10 = 15; a number without an end; 16 + 0.
        masks = [b"5;", b"5:", b"o", b"`0"]
        writer.add("a", [[0, 0, 1, 1]] * 4, masks=masks, image_size=(4, 4))
    store = ProposalStore.open(tmp_path / "p")
    problems = check_masks(store)
    assert len(problems) == 3
    assert problems[2] == "mask 3 of image 'a' is empty"
    assert "mask 1 of image 'a' has 15 pixels, expected 4 x 4" in problems[0]
    assert "mask 2 of image 'a' RLE counts end within a number" in problems[1]
    assert check_masks(store, limit=1)[1:] == ["and perhaps more"]
