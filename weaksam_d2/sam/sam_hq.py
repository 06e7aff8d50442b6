"""The SAM backend on transformers' SamHQModel: SAM with a token for finer masks."""

from collections.abc import Iterator
from typing import Any

from detectron2.config import configurable
from torch import Tensor, nn

from weaksam_d2.artifacts import Prompts
from weaksam_d2.sam.backend import Embedding, SamChunk
from weaksam_d2.sam.build import SAM_BACKEND_REGISTRY
from weaksam_d2.sam.transformers_models import TransformersSam

__all__ = ["SAMHQ"]


@SAM_BACKEND_REGISTRY.register()
class SAMHQ(TransformersSam):
    """SAM-HQ: the logits of its own token are added to those of SAM's tokens.

    The library sorts the three masks by falling predicted IoU: MASK_INDICES count in that order,
    they are not part, object and whole.

    Args:
        hq_token_only: the mask of SAM-HQ's token alone, with ``multimask=False`` only.
        **arguments: see `TransformersSam`.

    Source: Ke et al., Segment Anything in High Quality.
    """

    library_class = "SamHQModel"
    model_types = ("sam_hq",)
    since = "4.52"
    keeps_ratio = True
    num_extra = 1

    @configurable
    def __init__(self, *, hq_token_only: bool = False, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._hq_token_only = hq_token_only
        _upscale_decoded_tokens(self.model.mask_decoder)

    def decode(
        self,
        embedding: Embedding,
        prompts: Prompts,
        *,
        want: frozenset[str] = frozenset({"boxes"}),
        multimask: bool = True,
    ) -> Iterator[SamChunk]:
        """Yield the masks of the prompts, in their order: see `decode_in_chunks`.

        Raises:
            ValueError: three masks asked for with ``hq_token_only``, which gives one.
        """
        if self._hq_token_only and multimask:
            raise ValueError("hq_token_only gives one mask for each prompt; pass multimask=False")
        return super().decode(embedding, prompts, want=want, multimask=multimask)

    def _embed(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        features, early = self.model.get_image_embeddings(pixels)
        return features, (early[0],)  # the decoder uses the first of the global layers' outputs

    def _image_arguments(self, embedding: Embedding) -> dict[str, Any]:
        return {
            "image_embeddings": embedding.features,
            "intermediate_embeddings": list(embedding.extra),
            "hq_token_only": self._hq_token_only,
        }


def _upscale_decoded_tokens(decoder: Any) -> None:
    """Make a mask decoder upscale the image tokens that its transformer returns, in place.

    NOTE: transformers 5 drops them and upscales the tokens from before the transformer, with
    rows and columns exchanged, so that a mask's pixels do not know of the prompt. Versions that
    upscale the right tokens are not changed by this.
    """
    if getattr(decoder, "upscales_decoded_tokens", False):
        return
    decoded: list[Tensor] = []

    def keep(module: nn.Module, arguments: Any, output: tuple[Tensor, ...]) -> None:
        decoded[:] = [output[1]]  # (P, 1, h * w, C)

    def replace(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor]:
        (given,) = arguments
        return (decoded.pop().transpose(-1, -2).reshape(given.shape),)

    decoder.transformer.register_forward_hook(keep)
    decoder.upscale_conv1.register_forward_pre_hook(replace)
    decoder.upscales_decoded_tokens = True
