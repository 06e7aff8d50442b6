"""Grounding DINO: the one place that imports transformers for it."""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from weaksam_d2.weights import WeightsError

from .boxes import class_scores, to_pixels
from .hub import hub_folder
from .texts import TextPrompt, build_prompts, token_spans

__all__ = ["GroundingDino", "load_grounding_dino", "seen_in_training"]

logger = logging.getLogger(__name__)


class GroundingDino:
    """Boxes of named things in an image.

    Args:
        model: ``GroundingDinoForObjectDetection``, on its device.
        processor: ``GroundingDinoProcessor`` with a fast tokenizer (one that maps offsets).
    """

    def __init__(self, model: Any, processor: Any) -> None:
        if not getattr(processor.tokenizer, "is_fast", False):
            raise ValueError(
                f"{type(processor.tokenizer).__name__} does not map tokens to characters; "
                "Grounding DINO needs a fast tokenizer (tokenizer.json)"
            )
        self.model = model.eval()
        self.processor = processor
        self._prompts: dict[tuple[str, ...], list[TextPrompt]] = {}

    @property
    def max_tokens(self) -> int:
        """Tokens of a text, special ones included."""
        return int(self.model.config.max_text_len)

    @torch.no_grad()
    def __call__(self, image: np.ndarray, words: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Boxes float (Q, 4), XYXY in pixels, not clipped, and scores float (Q, K) of K words.

        image: RGB uint8 (H, W, 3). Where the words need several texts there are so many times
        the queries, and a query scores 0 for the words of other texts.
        """
        if not words:
            return torch.zeros(0, 4), torch.zeros(0, 0)
        size = (int(image.shape[0]), int(image.shape[1]))
        boxes, scores = [], []
        for prompt in self.prompts(tuple(words)):
            found = self._forward(image, prompt)
            boxes.append(to_pixels(found[0], size))
            part = found[1].new_zeros(len(found[1]), len(words))
            part[:, list(prompt.places)] = found[1]
            scores.append(part)
        return torch.cat(boxes), torch.cat(scores)

    def prompts(self, words: tuple[str, ...]) -> list[TextPrompt]:
        """The texts for these words; made once for each list of words."""
        if words not in self._prompts:

            def count(text: str) -> int:
                return len(self.processor.tokenizer(text)["input_ids"])

            self._prompts[words] = build_prompts(words, count, max_tokens=self.max_tokens)
        return self._prompts[words]

    def _forward(self, image: np.ndarray, prompt: TextPrompt) -> tuple[Tensor, Tensor]:
        """Boxes (Q, 4), center and sides in [0, 1], and scores (Q, k) of the words of a text."""
        offsets = self.processor.tokenizer(prompt.text, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        # A copy: torch warns about arrays that are read-only, as those of PIL are.
        inputs = self.processor(images=image.copy(), text=prompt.text, return_tensors="pt")
        inputs = {name: value.to(self.model.device) for name, value in inputs.items()}
        outputs = self.model(**inputs)
        probs = outputs.logits[0].float().sigmoid().cpu()
        return outputs.pred_boxes[0].float().cpu(), class_scores(
            probs, token_spans(prompt, offsets)
        )


def seen_in_training(model: str) -> str:
    """Why figures of a published detector are no weak supervision; "" where nothing is known."""
    if "grounding-dino-base" not in model.lower():
        return ""
    return (
        f"{model} was trained with boxes of COCO (and RefCOCO, OpenImages): with it figures on "
        "COCO are not weakly supervised; IDEA-Research/grounding-dino-tiny was not"
    )


def load_grounding_dino(model: str, device: str) -> GroundingDino:
    """Load a model id of the hub, or a folder with its files, in float32.

    Raises:
        WeightsError: it cannot be had, or is another kind of model.
        ImportError: a package is missing; says how to install it.
    """
    transformers = _transformers()
    warning = seen_in_training(model)
    if warning:
        logger.warning(warning)
    folder = hub_folder(model)
    return GroundingDino(_model(transformers, folder).to(device), _processor(transformers, folder))


def _transformers() -> ModuleType:
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            "Grounding DINO needs the package transformers; run: "
            "python -m pip install 'transformers>=5'"
        ) from error
    return transformers


def _model(transformers: Any, folder: Path) -> Any:
    try:
        model, info = transformers.GroundingDinoForObjectDetection.from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except Exception as error:  # a damaged folder fails in many ways
        raise WeightsError(f"{folder}: cannot be loaded as Grounding DINO ({error})") from error
    if info["missing_keys"] or info["mismatched_keys"]:
        raise WeightsError(
            f"{folder}: weights do not fit its config.json; missing "
            f"{sorted(info['missing_keys'])[:5]}, other shapes "
            f"{sorted(map(str, info['mismatched_keys']))[:5]}"
        )
    return model


def _processor(transformers: Any, folder: Path) -> Any:
    try:
        return transformers.GroundingDinoProcessor.from_pretrained(
            str(folder), local_files_only=True
        )
    except Exception as error:  # the tokenizer's own library raises nothing narrower
        raise WeightsError(
            f"{folder}: has no usable image processor and tokenizer ({error}); expected "
            "preprocessor_config.json and tokenizer.json"
        ) from error
