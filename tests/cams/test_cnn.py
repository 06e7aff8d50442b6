"""The CAM of a CNN is what its logit sums up."""

import pytest
import torch
from torch.nn import functional as F

from weaksam_d2.cams import CNN


def test_the_logit_is_the_soft_maximum_of_the_signed_map_plus_bias(cnn: CNN) -> None:
    with torch.no_grad():
        cnn.classifier.bias.uniform_(-1, 1)
        image = torch.rand(3, 64, 96)
        logits = cnn.class_logits(image[None])[0][0]
        cells = cnn.standardize(cnn.features(image[None])[0].flatten(1).T)
        signed = cells @ cnn.classifier.weight.T
    expected = torch.log((2.0 * signed).exp().mean(dim=0)) / 2.0 + cnn.classifier.bias
    assert torch.allclose(logits, expected, atol=1e-6)


def test_a_sharp_pooling_is_the_maximum_and_a_dull_one_the_mean(patch_mean) -> None:
    image = torch.rand(3, 64, 96)
    for sharpness, reduce in ((1e4, torch.amax), (1e-2, torch.mean)):
        cnn = CNN(backbone=patch_mean(), num_classes=2, sharpness=sharpness).eval()
        with torch.no_grad():
            torch.nn.init.normal_(cnn.classifier.weight)
            cells = cnn.standardize(cnn.features(image[None])[0].flatten(1).T)
            signed = cells @ cnn.classifier.weight.T
            logits = cnn.class_logits(image[None])[0][0]
        assert torch.allclose(logits, reduce(signed, dim=0), atol=2e-2)


def test_maps_are_the_positive_part_of_weights_times_standardized_features(cnn: CNN) -> None:
    image = torch.rand(3, 32, 64)
    with torch.no_grad():
        cnn.standardize.running_mean.uniform_(0, 1)
        features = cnn.features(image[None])[0]
        maps = cnn.maps(image, torch.tensor([1, 3]))
    mean, var = cnn.standardize.running_mean, cnn.standardize.running_var
    scaled = (features - mean[:, None, None]) / (var[:, None, None] + cnn.standardize.eps).sqrt()
    signed = torch.einsum("mk,khw->mhw", cnn.classifier.weight[[1, 3]], scaled)
    assert (signed < 0).any()
    assert torch.allclose(maps.coarse, F.relu(signed), atol=1e-6)
    assert maps.fine is None and maps.cross is None


@pytest.mark.parametrize(("height", "width"), [(48, 80), (16, 16), (32, 112)])
def test_the_map_covers_the_view_whatever_the_coarsest_stride(
    cnn: CNN, height: int, width: int
) -> None:
    image = torch.zeros(3, height, width)
    image[:, :16, -16:] = 1.0  # top right
    with torch.no_grad():
        features = cnn.features(image[None])[0]
        background = cnn.features(torch.zeros_like(image)[None])[0]
    assert features.shape[-2:] == (height // 16, width // 16)
    changed = (features != background).any(dim=0)
    assert changed[0, -1] and changed.sum() == 1


def test_padding_of_a_batch_does_not_change_a_logit(cnn: CNN) -> None:
    small, large = torch.rand(3, 32, 48), torch.rand(3, 80, 64)
    batch = torch.zeros(2, 3, 80, 64)
    batch[0, :, :32, :48], batch[1] = small, large
    with torch.no_grad():
        together = cnn.class_logits(batch, [(32, 48), (80, 64)])[0]
        alone = [cnn.class_logits(image[None])[0][0] for image in (small, large)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)


def test_a_backbone_of_several_levels_is_refused(patch_mean) -> None:
    backbone = patch_mean()
    backbone._out_features = ["patches", "more"]
    backbone._out_feature_strides["more"] = 32
    backbone._out_feature_channels["more"] = 3
    with pytest.raises(ValueError, match="one level, got 2"):
        CNN(backbone=backbone, num_classes=2)


def test_a_pooling_without_sharpness_is_refused(patch_mean) -> None:
    with pytest.raises(ValueError, match="must be positive, got 0"):
        CNN(backbone=patch_mean(), num_classes=2, sharpness=0.0)
