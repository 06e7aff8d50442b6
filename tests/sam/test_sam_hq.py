"""SAM-HQ's masks against a plain formulation, and against SAM's decoder."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from weaksam_d2.sam import SAMHQ

WANT = frozenset({"logits"})


def decode(backend: SAMHQ, image: np.ndarray, prompts: Any, **kw: Any) -> tuple[Tensor, Tensor]:
    (chunk,) = backend.decode(backend.encode(image), prompts, want=WANT, **kw)
    assert chunk.logits is not None
    return chunk.logits, chunk.quality


def sam_with_five_tokens(model: Any) -> Any:
    """SAM's own model with SAM-HQ's weights, its extra token as a fifth mask token."""
    import transformers

    config = model.config
    decoder = {**config.mask_decoder_config.to_dict(), "num_multimask_outputs": 4}
    sam = transformers.SamModel(
        transformers.SamConfig(
            vision_config=config.vision_config.to_dict(),
            prompt_encoder_config=config.prompt_encoder_config.to_dict(),
            mask_decoder_config=decoder,
        )
    ).eval()
    state = {k.replace("hq_mask_mlp", "output_hypernetworks_mlps.4"): v for k, v in
             model.state_dict().items()}  # fmt: skip
    tokens = [state["mask_decoder.mask_tokens.weight"], state.pop("mask_decoder.hq_token.weight")]
    state["mask_decoder.mask_tokens.weight"] = torch.cat(tokens)
    for name in ("weight", "bias"):  # one predicted IoU more, which nobody reads
        key = f"mask_decoder.iou_prediction_head.proj_out.{name}"
        state[key] = torch.cat([state[key], state[key][:1]])
    assert not sam.load_state_dict(state, strict=False).missing_keys
    return sam


@torch.no_grad()
def test_masks_are_those_of_sam_and_of_the_extra_token(
    tiny: Callable[[str], tuple[Any, Any]], image: np.ndarray, make: Any
) -> None:
    """The image tokens must come out of the transformer; transformers 5.23 alone drops them."""
    model, processor = copy.deepcopy(tiny("SAMHQ"))
    backend = SAMHQ(model=model, processor=processor)
    prompts = make([1, 1], image.shape[:2])
    prompts.points[1] = (190, 140)
    single, _ = decode(backend, image, prompts, multimask=False)
    three, quality = decode(backend, image, prompts)
    alone = SAMHQ(model=model, processor=processor, hq_token_only=True)
    extra, _ = decode(alone, image, prompts, multimask=False)

    sam = sam_with_five_tokens(model)
    points = torch.from_numpy(prompts.points.astype(np.float64) * 64 / 200).float()[None, :, None]
    features = backend.encode(image).features
    upscaled: list[Tensor] = []
    handle = sam.mask_decoder.upscale_conv2.register_forward_hook(
        lambda module, inputs, output: upscaled.append(output)
    )
    for output, multimask in ((single, False), (three, True)):
        result = sam(image_embeddings=features, input_points=points, multimask_output=multimask)
        theirs, iou = result.pred_masks[0], result.iou_scores[0]
        if multimask:  # the library sorts SAM-HQ's three masks by predicted IoU
            order = iou[:, :3].argsort(dim=1, descending=True)
            theirs = theirs[torch.arange(2)[:, None], order]
            torch.testing.assert_close(quality, iou[torch.arange(2)[:, None], order])
        torch.testing.assert_close(output - extra, theirs, atol=2e-4, rtol=1e-3)
    handle.remove()

    decoder = model.mask_decoder
    finer = decoder.mask_conv2(
        torch.nn.functional.gelu(decoder.mask_norm(decoder.mask_conv1(
            torch.nn.functional.gelu(upscaled[0]))))
    )  # fmt: skip
    early = backend.encode(image).extra[0].permute(0, 3, 1, 2)
    first = torch.nn.functional.gelu(decoder.encoder_norm(decoder.encoder_conv1(features)))
    second = torch.nn.functional.gelu(decoder.compress_vit_norm(decoder.compress_vit_conv1(early)))
    finer = finer + decoder.encoder_conv2(first) + decoder.compress_vit_conv2(second)
    tokens: list[Tensor] = []
    handle = sam.mask_decoder.output_hypernetworks_mlps[4].register_forward_hook(
        lambda module, inputs, output: tokens.append(output[0])
    )
    sam(image_embeddings=features, input_points=points)
    handle.remove()
    expected = torch.einsum("pc,pchw->phw", tokens[0], finer)
    torch.testing.assert_close(extra[:, 0], expected, atol=2e-4, rtol=1e-3)


def test_the_extra_token_alone_has_one_mask(
    tiny: Callable[[str], tuple[Any, Any]], image: np.ndarray, make: Any
) -> None:
    model, processor = tiny("SAMHQ")
    backend = SAMHQ(model=model, processor=processor, hq_token_only=True)
    with pytest.raises(ValueError, match="multimask=False"):
        backend.decode(backend.encode(image), make([1], (150, 200)))
