"""The tagger that is trained."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from weaksam_d2.projects.boxsam import CLIPTagger


@pytest.fixture()
def tagger(cfg: Any, clip_folder: Path) -> CLIPTagger:
    cfg.BOXSAM.TAGGER.CLIP = str(clip_folder)
    cfg.INPUT.FORMAT = "RGB"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    torch.manual_seed(0)
    made = CLIPTagger(cfg)
    torch.nn.init.normal_(made.classifier.weight)
    return made


def batch(*labels: list[int]) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "image_id": str(number),
            "image": torch.from_numpy(rng.uniform(0, 255, (3, 32, 32)).astype(np.float32)),
            "image_labels": torch.tensor(classes),
        }
        for number, classes in enumerate(labels)
    ]


def test_the_loss_is_the_cross_entropy_of_image_and_class_pairs(tagger: CLIPTagger) -> None:
    items = batch([2], [0, 1])
    loss = tagger.train()(items)["loss_tags"]
    logits = tagger.logits(torch.stack([item["image"] for item in items])).double()
    log_p = F.log_softmax(logits, dim=1)
    expected = (-log_p[0, 2] - (log_p[1, 0] + log_p[1, 1]) / 2) / 2
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)


def test_the_head_is_a_norm_and_a_linear_layer_on_clips_embedding(
    tagger: CLIPTagger, clip_folder: Path
) -> None:
    import transformers

    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    pixels = batch([0])[0]["image"][None]
    with torch.no_grad():
        view = (pixels - tagger.pixel_mean) / tagger.pixel_std
        pooled = model.vision_model(pixel_values=view).pooler_output
        embedded = F.layer_norm(model.visual_projection(pooled), (16,))
        expected = embedded @ tagger.classifier.weight.T + tagger.classifier.bias
        torch.testing.assert_close(tagger.logits(pixels), expected, rtol=1e-3, atol=1e-3)


def test_everything_that_is_left_learns_and_the_text_encoder_is_gone(tagger: CLIPTagger) -> None:
    tagger.train()(batch([2], [1]))["loss_tags"].backward()
    without = [
        name
        for name, parameter in tagger.named_parameters()
        if parameter.grad is None or not bool(parameter.grad.any())
    ]
    # A softmax does not change with a bias of all keys.
    assert all(name.endswith("k_proj.bias") for name in without), without
    assert not any("text" in name for name, _ in tagger.named_parameters())


def test_training_steps_lower_the_loss(tagger: CLIPTagger) -> None:
    items = batch([0], [1], [2])
    optimizer = torch.optim.AdamW(tagger.parameters(), lr=1e-3)
    losses = []
    for _ in range(8):
        loss = tagger.train()(items)["loss_tags"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_in_evaluation_the_best_view_of_each_class_counts(
    tagger: CLIPTagger, image: np.ndarray
) -> None:
    tagger.eval()
    with torch.no_grad():
        item = {"image": torch.from_numpy(image).permute(2, 0, 1)}
        (found,) = tagger([item])
        assert found["class_logits"].shape == (3,)
        assert bool((found["class_logits"] < 0).all())
        assert float(found["class_logits"].exp().sum()) >= 1 - 1e-5


def test_images_without_a_class_and_other_formats_are_refused(tagger: CLIPTagger, cfg: Any) -> None:
    with pytest.raises(ValueError, match="'1' of the training batch has no class"):
        tagger.train()(batch([0], []))
    cfg.INPUT.FORMAT = "BGR"
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT"):
        CLIPTagger(cfg)


def test_without_a_clip_the_sizes_are_those_of_vit_b16(cfg: Any) -> None:
    cfg.BOXSAM.TAGGER.CLIP = ""
    cfg.INPUT.FORMAT = "RGB"
    with torch.device("meta"):
        model = CLIPTagger.from_config(cfg)["clip"].model
    assert model.visual_projection.weight.shape == (512, 768)
    assert len(model.vision_model.encoder.layers) == 12
    assert model.config.vision_config.patch_size == 16
