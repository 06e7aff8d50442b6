"""The SAM backend on transformers' SamModel: the published SAM in that package's file layout."""

from typing import Any

from torch import Tensor

from weaksam_d2.sam.backend import Embedding
from weaksam_d2.sam.build import SAM_BACKEND_REGISTRY
from weaksam_d2.sam.transformers_models import TransformersSam

__all__ = ["SAMTransformers"]


@SAM_BACKEND_REGISTRY.register()
class SAMTransformers(TransformersSam):
    """SAM (ViT-H, -L, -B) by transformers; `SegmentAnything` decodes faster (shared tokens)."""

    library_class = "SamModel"
    model_types = ("sam",)
    since = "4.46"
    keeps_ratio = True
    num_extra = 0

    def _embed(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        return self.model.get_image_embeddings(pixels), ()

    def _image_arguments(self, embedding: Embedding) -> dict[str, Any]:
        return {"image_embeddings": embedding.features}
