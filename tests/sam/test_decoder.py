"""The shared mask decoder against segment_anything's own."""

import pytest
import torch
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer

from weaksam_d2.sam import decoder as decoder_module
from weaksam_d2.sam.decoder import SharedMaskDecoder


def make_modules(cells: tuple[int, int]) -> tuple[MaskDecoder, PromptEncoder]:
    torch.manual_seed(0)
    transformer = TwoWayTransformer(depth=2, embedding_dim=64, mlp_dim=96, num_heads=4)
    masks = MaskDecoder(transformer_dim=64, transformer=transformer, num_multimask_outputs=3).eval()
    size = (16 * cells[0], 16 * cells[1])
    prompts = PromptEncoder(64, cells, size, 16).eval()
    for module in (masks, prompts):
        for parameter in module.parameters():  # biases and norms start at 0 and 1: move them
            parameter.data += 0.2 * torch.randn_like(parameter)
    return masks, prompts


@pytest.mark.parametrize("cells", [(8, 8), (5, 9)])
@pytest.mark.parametrize("num_tokens", [2, 3, 27])
@pytest.mark.parametrize("multimask", [True, False])
def test_equals_segment_anything(
    cells: tuple[int, int], num_tokens: int, multimask: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder_module, "_CPU_TOKENS", 3 * 64)  # several parts, the last smaller
    masks, prompts = make_modules(cells)
    features = torch.randn(1, 64, *cells)
    sparse = torch.randn(7, num_tokens, 64)
    dense = prompts.no_mask_embed.weight
    with torch.no_grad():
        expected_logits, expected_quality = masks(
            image_embeddings=features,
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense.reshape(1, -1, 1, 1).expand(7, -1, *cells),
            multimask_output=multimask,
        )
    shared = SharedMaskDecoder(masks)
    image = shared.prepare(features, prompts.get_dense_pe(), dense)
    logits, quality = shared.decode(image, sparse, multimask=multimask)
    scale = float(expected_logits.std())
    assert logits.shape == expected_logits.shape
    torch.testing.assert_close(logits, expected_logits, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(quality, expected_quality, atol=1e-4, rtol=1e-4)


def test_no_prompts() -> None:
    masks, prompts = make_modules((4, 4))
    shared = SharedMaskDecoder(masks)
    image = shared.prepare(
        torch.randn(1, 64, 4, 4), prompts.get_dense_pe(), prompts.no_mask_embed.weight
    )
    logits, quality = shared.decode(image, torch.zeros(0, 2, 64))
    assert logits.shape == (0, 3, 16, 16)
    assert quality.shape == (0, 3)


def test_another_depth_is_refused() -> None:
    masks, _ = make_modules((4, 4))
    del masks.transformer.layers[1]
    with pytest.raises(ValueError, match="2 two-way layers, got 1"):
        SharedMaskDecoder(masks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_equals_segment_anything_on_a_gpu() -> None:
    masks, prompts = (module.cuda() for module in make_modules((8, 8)))
    features, sparse = torch.randn(1, 64, 8, 8).cuda(), torch.randn(7, 3, 64).cuda()
    dense = prompts.no_mask_embed.weight
    with torch.no_grad():
        expected = masks(
            image_embeddings=features,
            image_pe=prompts.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense.reshape(1, -1, 1, 1).expand(7, -1, 8, 8),
            multimask_output=True,
        )[0]
    shared = SharedMaskDecoder(masks)
    logits, _ = shared.decode(shared.prepare(features, prompts.get_dense_pe(), dense), sparse)
    torch.testing.assert_close(logits, expected, atol=1e-3 * float(expected.std()), rtol=0)
