"""What must not change the network's predictions, what they teach, and sizes that do not fit."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from detectron2.modeling import Backbone
from torch import Tensor, nn
from weaksam_d2.projects.dino.denoising import Denoising
from weaksam_d2.projects.dino.network import DINONetwork, NetworkSettings
from weaksam_d2.projects.dino.outputs import DINOOutput

MakeNetwork = Callable[..., DINONetwork]
MakeImages = Callable[..., Tensor]


class _AsTheyAre(nn.Module):
    """In place of the neck, whose group norm sees the padding."""

    def forward(self, maps: dict[str, Tensor]) -> list[Tensor]:
        return list(maps.values())


def same(a: DINOOutput, b: DINOOutput, row: int, atol: float) -> None:
    """Image 0 of ``a`` is image ``row`` of ``b``."""
    pairs = [(a.encoder, b.encoder), *zip(a.layers, b.layers, strict=True)]
    for x, y in pairs:
        torch.testing.assert_close(x.logits[0], y.logits[row], rtol=0, atol=atol)
        torch.testing.assert_close(x.boxes[0], y.boxes[row], rtol=0, atol=atol)


@pytest.mark.parametrize("count", [10, 40])  # 40: more than there are usable cells
def test_an_image_alone_is_the_image_in_a_padded_batch(
    make_network: MakeNetwork,
    make_backbone: Callable[..., Backbone],
    count: int,
    images: MakeImages,
) -> None:
    network = make_network(backbone=make_backbone(s8=32, s16=32), num_levels=2, num_queries=count)
    network.neck = _AsTheyAre()  # type: ignore[assignment]
    batch = images((32, 48), (96, 64), padded=(96, 64))
    with torch.no_grad():
        alone = network.predict(batch[:1, :, :32, :48], [(32, 48)])
        padded = network.predict(batch, [(32, 48), (96, 64)])
        other = network.predict(batch, [(96, 64), (96, 64)])
    same(alone, padded, 0, 1e-4)
    # The size counts: the same pixels with their padding taken for image give something else.
    assert (alone.layers[-1].boxes[0] - other.layers[-1].boxes[0]).abs().max() > 1e-3


def test_what_lies_in_the_padding_is_not_seen(
    make_network: MakeNetwork, make_backbone: Callable[..., Backbone], images: MakeImages
) -> None:
    network = make_network(backbone=make_backbone(s8=32, s16=32), num_levels=2)
    network.neck = _AsTheyAre()  # type: ignore[assignment]
    batch = images((32, 48), padded=(64, 64))
    dirty = batch.clone()
    dirty[:, :, 32:] = 5
    dirty[:, :, :, 48:] = -3
    with torch.no_grad():
        same(network.predict(batch, [(32, 48)]), network.predict(dirty, [(32, 48)]), 0, 1e-6)


def test_denoising_queries_change_no_other_query(
    make_network: MakeNetwork, images: MakeImages, noised_queries: Denoising
) -> None:
    network, batch = make_network(), images((64, 64), (48, 64), padded=(64, 64))
    sizes = [(64, 64), (48, 64)]
    with torch.no_grad():
        without = network.predict(batch, sizes)
        noised = network.predict(batch, sizes, noised_queries)
    for row in range(2):
        for a, b in zip(without.layers, noised.layers, strict=True):
            torch.testing.assert_close(a.logits[row], b.logits[row], rtol=0, atol=1e-5)
            torch.testing.assert_close(a.boxes[row], b.boxes[row], rtol=0, atol=1e-5)
    assert noised.denoising[0].boxes.shape == (2, noised_queries.boxes.shape[1], 4)
    assert without.denoising == []


def test_the_prediction_of_a_layer_teaches_the_box_head_before_it(
    make_network: MakeNetwork, images: MakeImages
) -> None:
    network = make_network()
    output = network.predict(images((64, 64), padded=(64, 64)), [(64, 64)])
    output.layers[1].boxes.sum().backward()

    def taught(head: int) -> bool:
        gradient = network.bbox_embed[head].layers[-1].bias.grad  # type: ignore[union-attr,index]
        return gradient is not None and bool(gradient.abs().sum() > 0)

    assert taught(1) and taught(0)
    assert not taught(2)  # the encoder's: the first reference is detached

    network.zero_grad()
    output = network.predict(images((64, 64), padded=(64, 64)), [(64, 64)])
    output.layers[1].logits.sum().backward()
    assert not taught(0)  # what a layer sees at its reference does not move the reference

    network.zero_grad()
    network.predict(images((64, 64), padded=(64, 64)), [(64, 64)]).encoder.boxes.sum().backward()
    assert taught(2)


def test_initial_boxes_are_references_and_scores_are_a_hundredth(
    make_backbone: Callable[..., Backbone],
    make_settings: Callable[..., NetworkSettings],
    images: MakeImages,
) -> None:
    network = DINONetwork(backbone=make_backbone(), settings=make_settings()).eval()
    with torch.no_grad():
        for head in network.class_embed:
            head.weight.zero_()  # type: ignore[union-attr,operator]
        output = network.predict(images((64, 64), padded=(64, 64)), [(64, 64)])
    for layer in output.layers:
        torch.testing.assert_close(layer.boxes, output.encoder.boxes, rtol=0, atol=1e-6)
        torch.testing.assert_close(layer.logits.sigmoid(), torch.full((1, 10, 3), 0.01))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_predicts_float32_near_full_precision(
    make_network: MakeNetwork, images: MakeImages, noised_queries: Denoising, dtype: torch.dtype
) -> None:
    network, batch = make_network(), images((64, 64), (48, 64), padded=(64, 64))
    sizes = [(64, 64), (48, 64)]
    with torch.autocast("cpu", dtype=dtype):
        output = network.predict(batch, sizes, noised_queries)
        loss = sum(layer.boxes.sum() + layer.logits.sum() for layer in output.layers)
    assert output.layers[-1].boxes.dtype == output.layers[-1].logits.dtype == torch.float32
    assert all(layer.boxes.isfinite().all() for layer in (*output.layers, output.encoder))
    loss.backward()  # type: ignore[union-attr]
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())
    with torch.no_grad():
        exact = network.predict(batch, sizes, noised_queries)
    # The choice of tokens may differ with fewer bits; the denoising queries are the same.
    difference = output.denoising[-1].boxes - exact.denoising[-1].boxes
    assert difference.abs().max() < 0.05


@pytest.mark.parametrize("size", [(8, 8), (16, 24)])
def test_an_image_of_one_patch_has_all_its_queries(
    make_network: MakeNetwork, size: tuple[int, int], images: MakeImages
) -> None:
    network = make_network(num_classes=1)
    output = network.predict(images(size, padded=(16, 32)), [size])
    assert output.layers[-1].boxes.shape == (1, 10, 4)
    (output.layers[-1].boxes.sum() + output.encoder.boxes.sum()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_dim": 40}, "HIDDEN_DIM must be a multiple of 4"),
        ({"hidden_dim": 48}, "HIDDEN_DIM must be a multiple of 32"),
        ({"num_queries": 0}, "num_queries of 1 or more"),
        ({"num_levels": 1}, "NUM_LEVELS is 1, fewer than the 2 maps"),
        ({"in_features": ("s8", "res5")}, "IN_FEATURES is .*'res5'.*gives .*'s16'"),
        ({"in_features": ()}, "IN_FEATURES is \\[\\]"),
    ],
)
def test_sizes_that_do_not_fit_name_their_key(
    make_network: MakeNetwork, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_network(**changes)


def test_one_map_and_three_levels_made_from_it(
    make_network: MakeNetwork, images: MakeImages
) -> None:
    network = make_network(in_features=("s16",), num_levels=4)
    assert len(network.neck.convs) == 1 and len(network.neck.extra_convs) == 3
    assert [conv.conv.in_channels for conv in network.neck.extra_convs] == [7, 32, 32]
    levels = network.neck(network.backbone(images((64, 96), padded=(64, 96))))
    assert [tuple(level.shape[2:]) for level in levels] == [(4, 6), (2, 3), (1, 2), (1, 1)]
