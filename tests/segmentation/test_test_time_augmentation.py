"""Views of semantic segmentation: which there are, and how they are averaged."""

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from weaksam_d2.engine import cli
from weaksam_d2.engine.training.inference_views import with_test_views
from weaksam_d2.segmentation import SemSegWithTTA, asks_for_views


class Recorder(nn.Module):
    """Logits of two classes from the red channel; keeps the images that it has seen."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, batch: list[dict[str, Any]]) -> list[dict[str, torch.Tensor]]:
        (sample,) = batch
        self.seen.append(sample["image"])
        red = F.interpolate(
            sample["image"][None, :1].float(), (sample["height"], sample["width"]), mode="bilinear"
        )[0]
        return [{"sem_seg": torch.cat([red, 1 - red])}]


def sample() -> dict[str, Any]:
    image = torch.zeros(3, 4, 6)
    image[0, :, :2] = 3.0  # bright on the left
    return {"image": image, "height": 8, "width": 12, "image_id": "a"}


def test_a_mirror_image_is_mirrored_back() -> None:
    model = Recorder()
    plain = model([sample()])[0]["sem_seg"]
    views = SemSegWithTTA(model, scales=(1.0,), flip=True, logits=True).eval()
    found = views([sample()])[0]["sem_seg"]
    torch.testing.assert_close(found, plain.softmax(dim=0))
    assert torch.equal(model.seen[1], model.seen[2].flip(-1))  # the second of two views


def test_probabilities_are_averaged_not_logits() -> None:
    model = Recorder()
    views = SemSegWithTTA(model, scales=(0.5, 1.0, 2.0), flip=False, logits=True).eval()
    found = views([sample()])[0]["sem_seg"]
    assert [tuple(image.shape) for image in model.seen] == [(3, 2, 3), (3, 4, 6), (3, 8, 12)]
    mean: Any = 0
    for image in list(model.seen):
        one = model([{**sample(), "image": image}])[0]["sem_seg"]
        mean = mean + one.softmax(dim=0) / 3
    torch.testing.assert_close(found, mean)
    torch.testing.assert_close(found.sum(dim=0), torch.ones(8, 12))


def test_scores_are_averaged_as_they_are_and_sizes_default_to_the_images() -> None:
    model = Recorder()
    given = {key: value for key, value in sample().items() if key == "image"}
    views = SemSegWithTTA(model, scales=(1.0, 2.0), flip=False, logits=False).eval()
    found = views([given])[0]["sem_seg"]
    assert found.shape == (2, 4, 6)
    assert found[0].max() == pytest.approx(3.0)


def test_which_models_have_views() -> None:
    cfg = cli.base_config()
    model = Recorder()
    assert not asks_for_views(cfg) and with_test_views(cfg, model) is model
    cfg.TEST.SEM_SEG_FLIP = True
    with pytest.raises(ValueError, match="SEM_SEG_FLIP True .*Recorder does not"):
        with_test_views(cfg, model)
    model.sem_seg_output = "scores"  # type: ignore[assignment]
    views = with_test_views(cfg, model.eval())
    assert isinstance(views, SemSegWithTTA) and not views.logits and not views.training
    with pytest.raises(RuntimeError, match="evaluation"):
        views.train()([sample()])
    with pytest.raises(ValueError, match="SEM_SEG_SCALES"):
        SemSegWithTTA(model, scales=(), flip=True, logits=True)
