"""What this project takes from transformers' Grounding DINO, on a random model of its classes."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from weaksam_d2.projects.boxsam.grounding_dino import (
    GroundingDino,
    load_grounding_dino,
    seen_in_training,
)

from weaksam_d2.weights import WeightsError


@pytest.fixture(scope="module")
def dino(dino_folder: Path) -> GroundingDino:
    return load_grounding_dino(str(dino_folder), "cpu")


def own_forward(dino: GroundingDino, image: np.ndarray, text: str) -> tuple[Tensor, Tensor]:
    """Boxes in pixels, by the processor's own post-processing, and the probabilities of tokens."""
    inputs = dino.processor(images=image, text=text, return_tensors="pt")
    with torch.no_grad():
        outputs = dino.model(**inputs)
    found = dino.processor.post_process_grounded_object_detection(
        outputs, inputs["input_ids"], threshold=-1.0, target_sizes=[image.shape[:2]]
    )
    return found[0]["boxes"], outputs.logits[0].sigmoid()


def test_boxes_and_scores_equal_those_of_the_library(
    dino: GroundingDino, image: np.ndarray
) -> None:
    boxes, scores = dino(image, ["cat", "potted plant", "person"])
    theirs, probs = own_forward(dino, image, "cat . potted plant . person .")
    torch.testing.assert_close(boxes, theirs, rtol=1e-4, atol=1e-2)
    # [CLS] cat . potted plant . per ##son . [SEP]
    spans = ([1], [3, 4], [6, 7])
    expected = torch.stack([probs[:, list(s)].amax(dim=1) for s in spans], dim=1)
    torch.testing.assert_close(scores, expected)
    assert probs.shape == (12, 256) and scores.shape == (12, 3)
    assert float(scores.max() - scores.min()) > 1e-3


def test_a_long_list_takes_several_texts(
    dino: GroundingDino, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dino.model.config, "max_text_len", 6)
    dino._prompts.clear()
    words = ["cat", "dog", "person"]
    boxes, scores = dino(image, words)
    assert [p.text for p in dino.prompts(tuple(words))] == ["cat . dog .", "person ."]
    assert boxes.shape == (24, 4) and scores.shape == (24, 3)
    assert not scores[:12, 2].any() and not scores[12:, :2].any()
    dino._prompts.clear()


def test_without_words_nothing_is_run(dino: GroundingDino, image: np.ndarray) -> None:
    boxes, scores = dino(image, [])
    assert boxes.shape == (0, 4) and scores.shape == (0, 0)


def test_the_larger_model_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    assert "not weakly supervised" in seen_in_training("IDEA-Research/grounding-dino-base")
    assert not seen_in_training("IDEA-Research/grounding-dino-tiny")
    with caplog.at_level(logging.WARNING), pytest.raises(WeightsError, match="cannot be"):
        load_grounding_dino("IDEA-Research/grounding-dino-base-not-there", "cpu")
    assert "not weakly supervised" in caplog.text


def test_a_folder_of_something_else_is_refused(dino_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="Grounding DINO"):
        load_grounding_dino(str(tmp_path), "cpu")
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((dino_folder / name).read_bytes())
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        load_grounding_dino(str(tmp_path), "cpu")


def test_a_tokenizer_that_does_not_map_characters_is_refused(dino: GroundingDino) -> None:
    class Slow:
        is_fast = False

    class Processor:
        tokenizer = Slow()

    with pytest.raises(ValueError, match="fast tokenizer"):
        GroundingDino(dino.model, Processor())
