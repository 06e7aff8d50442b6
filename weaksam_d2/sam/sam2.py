"""The SAM backend on transformers' Sam2Model: SAM 2 and 2.1 on still images."""

from typing import Any

from torch import Tensor

from weaksam_d2.sam.backend import Embedding
from weaksam_d2.sam.build import SAM_BACKEND_REGISTRY
from weaksam_d2.sam.transformers_models import TransformersSam

__all__ = ["SAM2"]


@SAM_BACKEND_REGISTRY.register()
class SAM2(TransformersSam):
    """SAM 2 or 2.1 (Hiera): three feature levels, the image resized to a square.

    Without multimask the library takes the best of the three where the single mask is unstable.

    Source: Ravi et al., SAM 2: Segment Anything in Images and Videos.
    """

    library_class = "Sam2Model"
    model_types = ("sam2", "sam2_video")  # published files are of the video model, which has more
    since = "4.56"
    keeps_ratio = False
    num_extra = 2

    def _embed(self, pixels: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        *finer, last = self.model.get_image_embeddings(pixels)
        return last, tuple(finer)

    def _image_arguments(self, embedding: Embedding) -> dict[str, Any]:
        return {"image_embeddings": [*embedding.extra, embedding.features]}
