"""ImageClassifier: losses from tags, logits in evaluation, building from a config."""

import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from weaksam_d2.cams import CNN, ImageClassifier
from weaksam_d2.config import add_weaksam_config


def _item(labels: list[int], size: tuple[int, int] = (32, 32)) -> dict:
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    return {"image": image, "image_labels": torch.tensor(labels), "image_id": "a"}


def test_the_loss_is_binary_cross_entropy_of_every_class(cnn_classifier: ImageClassifier) -> None:
    cnn_classifier.train()
    cnn_classifier.network.eval()  # no dropout and no batch statistics, so that it can be repeated
    batch = [_item([0, 2]), _item([]), _item([3])]
    losses = cnn_classifier(batch)
    views = torch.stack([item["image"] for item in batch]) / 255
    logits = cnn_classifier.network.class_logits(views)[0]
    targets = torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]])
    probability = logits.sigmoid()
    slow = -(targets * probability.log() + (1 - targets) * (1 - probability).log()).mean()
    assert list(losses) == ["loss_multilabel"]
    assert torch.allclose(losses["loss_multilabel"], slow, atol=1e-6)


def test_an_unknown_class_is_neither_present_nor_absent(cnn_classifier: ImageClassifier) -> None:
    cnn_classifier.train()
    cnn_classifier.network.eval()
    plain, unsure, silent = _item([0]), _item([0]), _item([])
    unsure["image"] = silent["image"] = plain["image"]
    unsure["unknown_labels"] = torch.tensor([1, 3])
    logits = cnn_classifier.network.class_logits(plain["image"][None] / 255)[0][0]
    cross_entropy = torch.nn.functional.softplus(torch.stack([-logits[0], logits[2]]))
    loss = cnn_classifier([unsure])["loss_multilabel"]
    assert torch.allclose(loss, cross_entropy.mean(), atol=1e-6)
    cnn_classifier.open_labels = True  # what nobody says is unknown
    unsure["negative_labels"] = torch.tensor([2])
    del unsure["unknown_labels"]
    assert torch.allclose(cnn_classifier([unsure])["loss_multilabel"], loss)
    assert cnn_classifier([silent])["loss_multilabel"] == 0


def test_evaluation_gives_logits_image_by_image(cnn_classifier: ImageClassifier) -> None:
    batch = [_item([0]), _item([1], (64, 48))]
    del batch[0]["image_labels"]  # not needed
    outputs = cnn_classifier.eval()(batch)
    alone = [cnn_classifier([item])[0]["class_logits"] for item in batch]
    assert [row["class_logits"].shape for row in outputs] == [(4,), (4,)]
    for row, single in zip(outputs, alone, strict=True):
        assert torch.allclose(row["class_logits"], single, atol=1e-5)


@pytest.mark.parametrize("labels", [[4], [-1, 0]])
def test_labels_out_of_range_are_named(cnn_classifier: ImageClassifier, labels: list[int]) -> None:
    with pytest.raises(ValueError, match=r"'a' has labels .* expected classes from 0 to 3"):
        cnn_classifier.train()([_item(labels)])


def test_a_training_batch_without_tags_is_refused(cnn_classifier: ImageClassifier) -> None:
    item = _item([0])
    del item["image_labels"]
    with pytest.raises(ValueError, match="'a' of the training batch has no 'image_labels'"):
        cnn_classifier.train()([item])


def test_training_on_tags_learns_them(cnn_classifier: ImageClassifier) -> None:
    # Class = which color channel is bright; four steps of Adam must lower the loss.
    items = []
    for label in (0, 1, 2):
        image = torch.zeros(3, 32, 32, dtype=torch.uint8)
        image[label] = 255
        items.append({"image": image, "image_labels": torch.tensor([label])})
    cnn_classifier.train()
    optimizer = torch.optim.Adam(cnn_classifier.parameters(), lr=0.05)
    losses = []
    for _ in range(20):
        loss = cnn_classifier(items)["loss_multilabel"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


def test_a_config_builds_a_cnn_with_frozen_batch_norm_and_sizes_of_any_kind() -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.MODEL.META_ARCHITECTURE = "ImageClassifier"
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.NAME = "test_efficientnet"
    cfg.MODEL.TIMM.OUT_INDICES = (3, 4)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 5
    model = build_model(cfg)
    assert isinstance(model.network, CNN)
    loss = model.train()([_item([4], (40, 56)), _item([0], (64, 33))])["loss_multilabel"]
    loss.backward()
    assert loss.isfinite()
    norms = [m for m in model.network.backbone.modules() if "BatchNorm" in type(m).__name__]
    assert norms and not any(m.training for m in norms)
    assert model.network.standardize.training
    assert model.network.classifier.weight.grad.abs().sum() > 0
    maps = model.eval().network.maps(torch.zeros(3, 48, 80), torch.tensor([1, 2]))
    assert maps.coarse.shape == (2, 3, 5)
