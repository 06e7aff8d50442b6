"""Taggers: CLIP asked for classes, a trained head, given tags, tags of a whole set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from weaksam_d2.projects.boxsam import (
    CLIPTagger,
    TagScores,
    build_tag_scorer,
    build_tagger,
)
from weaksam_d2.projects.boxsam.tagger import zero_shot_scorer
from weaksam_d2.projects.boxsam.views import PIXEL_MEAN, PIXEL_STD, tag_views

from weaksam_d2.cams import CLIP, load_clip

CLASSES = ["cat", "dog", "pottedplant"]
WORDS = ["cat", "dog", "potted plant"]


def test_zero_shot_scores_equal_transformers_own_model(
    clip_folder: Path, image: np.ndarray
) -> None:
    import transformers

    model = transformers.CLIPModel.from_pretrained(clip_folder).eval()
    tokenizer = transformers.CLIPTokenizerFast.from_pretrained(str(clip_folder))
    views = tag_views(image, 32)
    mean, std = torch.tensor(PIXEL_MEAN), torch.tensor(PIXEL_STD)
    pixels = (views - mean[:, None, None]) / std[:, None, None]
    best = np.zeros(3)
    for view in pixels:
        texts = tokenizer([f"a photo of a {w}." for w in WORDS], padding=True, return_tensors="pt")
        with torch.no_grad():
            logits = model(pixel_values=view[None], **texts).logits_per_image[0]
        best = np.maximum(best, logits.softmax(dim=0).double().numpy())
    scorer = zero_shot_scorer(load_clip(str(clip_folder)), CLASSES, ("a photo of a {}.",))
    np.testing.assert_allclose(scorer(image), best, rtol=1e-4)
    assert best.max() - best.min() > 1e-3


def test_texts_are_encoded_once_and_templates_are_averaged(
    clip_folder: Path, image: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[str]] = []
    original = CLIP.text_features
    monkeypatch.setattr(
        CLIP, "text_features", lambda self, texts: asked.append(texts) or original(self, texts)
    )
    clip = load_clip(str(clip_folder))
    scorer = zero_shot_scorer(clip, CLASSES, ("a {}", "{}"))
    scorer(image)
    scorer(image)
    assert asked == [[f"a {w}" for w in WORDS], WORDS]
    texts = F.normalize((original(clip, asked[0]) + original(clip, asked[1])) / 2, dim=-1)
    views = (tag_views(image, 32) - torch.tensor(PIXEL_MEAN)[:, None, None]) / torch.tensor(
        PIXEL_STD
    )[:, None, None]
    with torch.no_grad():
        logits = clip.scale * clip.image_features(views) @ texts.T
    np.testing.assert_allclose(scorer(image), logits.softmax(dim=1).amax(dim=0).numpy(), rtol=1e-4)


def test_a_template_without_a_place_is_refused(clip_folder: Path) -> None:
    with pytest.raises(ValueError, match="place"):
        zero_shot_scorer(load_clip(str(clip_folder)), CLASSES, ("a photo",))


def test_the_default_tagger_selects_from_the_image_alone(
    cfg: Any, clip_folder: Path, image: np.ndarray
) -> None:
    cfg.BOXSAM.TAGGER.CLIP = str(clip_folder)
    tagger = build_tagger(cfg, CLASSES)
    assert tagger.supervision == "none"
    scores = build_tag_scorer(cfg, CLASSES)(image)
    cfg.BOXSAM.TAGGER.TOP_N = 1
    best = build_tagger(cfg, CLASSES)({"image_labels": [0, 1, 2]}, image)
    assert best == [int(scores.argmax())]
    assert set(best) <= set(tagger({}, image))


def test_a_trained_head_is_loaded_and_gives_its_own_scores(
    cfg: Any, clip_folder: Path, image: np.ndarray, tmp_path: Path
) -> None:
    cfg.BOXSAM.TAGGER.CLIP = str(clip_folder)
    cfg.BOXSAM.TAGGER.MODE = "head"
    cfg.INPUT.FORMAT = "RGB"
    with pytest.raises(ValueError, match=r"BOXSAM\.TAGGER\.WEIGHTS"):
        build_tagger(cfg, CLASSES)
    cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD = list(PIXEL_MEAN), list(PIXEL_STD)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 3
    model = CLIPTagger(cfg).eval()
    torch.nn.init.normal_(model.classifier.weight)
    torch.save({"model": model.state_dict()}, tmp_path / "head.pth")
    cfg.BOXSAM.TAGGER.WEIGHTS = str(tmp_path / "head.pth")
    with torch.no_grad():
        tested = model([{"image": torch.from_numpy(image).permute(2, 0, 1)}])[0]["class_logits"]
    scores = build_tag_scorer(cfg, CLASSES)(image)
    np.testing.assert_allclose(scores, tested.exp().numpy(), rtol=1e-4)
    assert build_tagger(cfg, CLASSES).supervision == "none"
    with pytest.raises(ValueError, match="2 classes"):
        build_tag_scorer(cfg, CLASSES[:2])


def test_given_tags_are_those_of_the_record(cfg: Any) -> None:
    cfg.BOXSAM.TAGGER.MODE = "given"
    tagger = build_tagger(cfg, CLASSES)
    assert tagger.supervision == "image_labels"
    assert tagger({"image_id": "a", "image_labels": [2, 0]}, None) == [0, 2]
    with pytest.raises(ValueError, match="image_labels"):
        tagger({"image_id": "a"}, None)
    with pytest.raises(ValueError, match="no scores"):
        build_tag_scorer(cfg, CLASSES)


def test_tags_of_the_whole_set_come_from_stored_scores(cfg: Any, tmp_path: Path) -> None:
    cfg.BOXSAM.TAGGER.SELECTION = "per_class_topn"
    cfg.BOXSAM.TAGGER.TOP_N = 1
    with pytest.raises(ValueError, match="--input"):
        build_tagger(cfg, CLASSES)
    rows = {"a": np.array([0.5, 0.3, 0.2]), "b": np.array([0.4, 0.1, 0.5])}
    TagScores.of(CLASSES, rows).write(tmp_path / "scores.json")
    tagger = build_tagger(cfg, CLASSES, tmp_path / "scores.json")
    assert tagger({"image_id": "a"}, None) == [0, 1]
    assert tagger({"image_id": "b"}, None) == [2]
    with pytest.raises(KeyError, match="'c'"):
        tagger({"image_id": "c"}, None)


@pytest.mark.parametrize("key", ["MODE", "SELECTION"])
def test_unknown_choices_are_refused(cfg: Any, key: str) -> None:
    cfg.BOXSAM.TAGGER[key] = "best"
    with pytest.raises(ValueError, match=f"{key} is 'best'"):
        build_tagger(cfg, CLASSES)
