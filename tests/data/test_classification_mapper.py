"""ClassificationMapper: augmented views of a fixed size, tags, and never a box."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from PIL import Image

from weaksam_d2.data import ClassificationMapper, DamagedImageError

MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PLAIN: dict[str, Any] = {
    "crop_scale": (1.0, 1.0), "auto_augment": "", "color_jitter": 0.0, "erase_prob": 0.0,
}  # fmt: skip


@pytest.fixture()
def record(tmp_path: Path, save_image: Callable[..., Path]) -> dict[str, Any]:
    path = save_image(tmp_path / "a.png", 64, 64)
    size = {"height": 64, "width": 64}
    return {"file_name": str(path), "image_id": "a", "image_labels": [1, 4], **size}


def mapper(is_train: bool = True, **options: Any) -> ClassificationMapper:
    arguments: dict[str, Any] = {
        "augmentations": [T.Resize((30, 40))], "image_format": "RGB", "size": 32,
        "pixel_mean": MEAN, "pixel_std": STD, **options,
    }  # fmt: skip
    return ClassificationMapper(is_train, **arguments)


def test_a_training_view_has_a_fixed_size_and_the_tags(record: dict[str, Any]) -> None:
    mapped = mapper()(record)
    assert set(mapped) == {"file_name", "image_id", "height", "width", "image", "image_labels"}
    assert mapped["image"].shape == (3, 32, 32) and mapped["image"].dtype == torch.float32
    assert mapped["image_labels"].tolist() == [1, 4]
    assert "image" not in record and record["image_labels"] == [1, 4]


def test_views_differ_and_follow_the_seed(record: dict[str, Any]) -> None:
    view = mapper()

    def draw(seed: int) -> torch.Tensor:
        random.seed(seed), np.random.seed(seed), torch.manual_seed(seed)
        return view(record)["image"]

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_without_augmentation_the_view_is_the_resized_image(record: dict[str, Any]) -> None:
    pixels = Image.open(record["file_name"])
    small = np.asarray(pixels.resize((32, 32), Image.Resampling.BICUBIC), np.float32)
    expected = torch.from_numpy(small).permute(2, 0, 1)
    plain = mapper(**PLAIN)
    views = [plain(record)["image"] for _ in range(12)]
    matches = [v for v in views if torch.allclose(v, expected, atol=1e-2)]
    mirrored = [v for v in views if torch.allclose(v, expected.flip(-1), atol=1e-2)]
    assert len(matches) + len(mirrored) == 12 and matches and mirrored
    reverse = mapper(
        image_format="BGR", pixel_mean=MEAN[::-1], pixel_std=STD[::-1], **PLAIN
    )(record)["image"].flip(0)  # fmt: skip
    assert any(torch.allclose(reverse, v, atol=1e-2) for v in (expected, expected.flip(-1)))


def test_erased_pixels_are_noise_with_the_statistics_of_the_data(tmp_path: Path) -> None:
    path = tmp_path / "flat.png"
    Image.new("RGB", (64, 64), (124, 116, 104)).save(path)
    record = {"file_name": str(path), "image_id": "f", "image_labels": [0]}
    torch.manual_seed(0)
    random.seed(0)
    erase = mapper(**{**PLAIN, "erase_prob": 1.0})
    noise = []
    for _ in range(20):
        image = erase(record)["image"]
        changed = (image - torch.tensor([124.0, 116, 104]).view(3, 1, 1)).abs().amax(dim=0) > 1
        noise.append(image[:, changed])
    drawn = torch.cat(noise, dim=1)
    assert drawn.shape[1] > 500
    assert torch.allclose(drawn.mean(dim=1), torch.tensor(MEAN), atol=6)
    assert torch.allclose(drawn.std(dim=1), torch.tensor(STD), atol=6)


def test_evaluation_resizes_and_forgets_the_tags(record: dict[str, Any]) -> None:
    mapped = mapper(is_train=False)(record)
    assert mapped["image"].shape == (3, 30, 40) and mapped["image"].dtype == torch.uint8
    assert "image_labels" not in mapped


def test_annotations_damage_and_wrong_sizes_are_refused(record: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="'annotations'.*ClassificationMapper takes weak data"):
        mapper()({**record, "annotations": []})
    with pytest.raises(ValueError, match="is 64 x 64 .* says 65 x 64"):
        mapper()({**record, "height": 65})
    Path(record["file_name"]).write_bytes(b"\x89PNG and no more")
    with pytest.raises(DamagedImageError, match=r"a\.png"):
        mapper()(record)


@pytest.mark.parametrize(
    "options",
    [
        {"size": 0},
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.5)},
        {"crop_scale": (0.5, 1.5)},
    ],
)
def test_impossible_views_are_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="INPUT.CLASSIFICATION has SIZE"):
        mapper(**options)


def test_the_config_names_the_transform(weak_cfg: Any, record: dict[str, Any]) -> None:
    weak_cfg.INPUT.FORMAT = "RGB"
    weak_cfg.INPUT.CLASSIFICATION.SIZE = 48
    made = ClassificationMapper(weak_cfg, True)
    assert made(record)["image"].shape == (3, 48, 48)
    steps = [type(step).__name__ for step in made.transform.transforms]
    assert steps[0].startswith("RandomResizedCrop") and steps[-1] == "RandomErasing"
    assert "RandAugment" in steps and "ColorJitter" not in steps
