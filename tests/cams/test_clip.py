"""CLIP from folders and from OpenAI's files: what it computes and what it refuses."""

import importlib.util
import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from weaksam_d2.cams import CLIP, load_clip
from weaksam_d2.cams.clip_vocabulary import find_vocabulary, read_vocabulary
from weaksam_d2.cams.clip_weights import clip_sizes, compare_keys, to_transformers
from weaksam_d2.weights import WeightsError

VOCABULARY = "bpe_simple_vocab_16e6.txt.gz"


@pytest.fixture(scope="module")
def clip(clip_folder: Path) -> CLIP:
    return load_clip(str(clip_folder))


def openai_state(model: nn.Module) -> dict[str, Tensor]:
    """The weights of a ``CLIPModel`` under OpenAI's names, written from the published table."""
    ours = model.state_dict()
    theirs = {
        "visual.conv1.weight": ours["vision_model.embeddings.patch_embedding.weight"],
        "visual.class_embedding": ours["vision_model.embeddings.class_embedding"],
        "visual.positional_embedding": ours["vision_model.embeddings.position_embedding.weight"],
        "visual.proj": ours["visual_projection.weight"].T,
        "token_embedding.weight": ours["text_model.embeddings.token_embedding.weight"],
        "positional_embedding": ours["text_model.embeddings.position_embedding.weight"],
        "text_projection": ours["text_projection.weight"].T,
        "logit_scale": ours["logit_scale"],
    }
    for kind in ("weight", "bias"):
        theirs[f"visual.ln_pre.{kind}"] = ours[f"vision_model.pre_layrnorm.{kind}"]
        theirs[f"visual.ln_post.{kind}"] = ours[f"vision_model.post_layernorm.{kind}"]
        theirs[f"ln_final.{kind}"] = ours[f"text_model.final_layer_norm.{kind}"]
        for tower, prefix in (("vision", "visual.transformer"), ("text", "transformer")):
            for i in range(getattr(model.config, f"{tower}_config").num_hidden_layers):
                old, new = f"{tower}_model.encoder.layers.{i}", f"{prefix}.resblocks.{i}"
                theirs[f"{new}.attn.in_proj_{kind}"] = torch.cat(
                    [ours[f"{old}.self_attn.{part}_proj.{kind}"] for part in "qkv"]
                )
                theirs[f"{new}.attn.out_proj.{kind}"] = ours[f"{old}.self_attn.out_proj.{kind}"]
                theirs[f"{new}.ln_1.{kind}"] = ours[f"{old}.layer_norm1.{kind}"]
                theirs[f"{new}.ln_2.{kind}"] = ours[f"{old}.layer_norm2.{kind}"]
                theirs[f"{new}.mlp.c_fc.{kind}"] = ours[f"{old}.mlp.fc1.{kind}"]
                theirs[f"{new}.mlp.c_proj.{kind}"] = ours[f"{old}.mlp.fc2.{kind}"]
    return {key: value.clone() for key, value in theirs.items()}


def place(folder: Path, state: Any, vocabulary: bytes) -> str:
    (folder / VOCABULARY).write_bytes(vocabulary)
    torch.save(state, folder / "clip.pt")
    return str(folder / "clip.pt")


def jit_archive(state: dict[str, Tensor], path: Path) -> None:
    """An archive as OpenAI's: half precision, with three numbers among the weights."""

    class Identity(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    root = Identity()
    for key, value in state.items():
        *modules, leaf = key.split(".")
        module: nn.Module = root
        for name in modules:
            if name not in dict(module.named_children()):
                module.add_module(name, Identity())
            module = module.get_submodule(name)
        module.register_parameter(leaf, nn.Parameter(value.half()))
    for name, number in (("input_resolution", 64), ("context_length", 77), ("vocab_size", 523)):
        root.register_buffer(name, torch.tensor(number))
    torch.jit.script(root).save(str(path))


def test_a_loaded_clip_is_frozen_and_in_full_precision(clip: CLIP) -> None:
    assert not clip.training
    for parameter in clip.parameters():
        assert parameter.dtype == torch.float32 and not parameter.requires_grad
    assert (clip.patch, clip.heads, len(clip.layers)) == (16, 2, 3)
    assert clip.scale.item() == pytest.approx(math.e**2)


def test_image_features_are_those_of_transformers(clip: CLIP) -> None:
    images = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        pooled = clip.model.vision_model(images).pooler_output
        expected = clip.model.visual_projection(pooled)
        found = clip.image_features(images)
    torch.testing.assert_close(found, expected / expected.norm(dim=1, keepdim=True))


def test_attention_is_that_of_transformers(clip: CLIP) -> None:
    image = torch.randn(1, 3, 64, 64)
    clip.model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = clip.model.vision_model(image, output_attentions=True).attentions
        tokens = clip.embed(image)
        for layer, weights in zip(clip.layers, expected, strict=True):
            attended, found = clip.attend(layer, layer.layer_norm1(tokens))
            torch.testing.assert_close(found, weights)
            assert found.std() > 0.01  # not the same everywhere
            tokens = clip.finish(layer, tokens, attended)


def test_text_features_are_those_of_transformers_and_of_a_prompt_alone(clip: CLIP) -> None:
    prompts = ["a cat", "a much longer origami dog", "CAT"]
    found = clip.text_features(prompts)
    for prompt, row in zip(prompts, found, strict=True):
        ids = torch.tensor([clip.tokenizer(prompt)["input_ids"]])
        with torch.no_grad():
            pooled = clip.model.text_model(input_ids=ids).pooler_output
            expected = clip.model.text_projection(pooled)[0]
        torch.testing.assert_close(row, expected / expected.norm())
    assert (found[0] - found[1]).abs().max() > 0.01


def test_words_are_split_as_by_hand(clip: CLIP) -> None:
    letters = [chr(byte) for byte in range(33, 127)]  # the first tokens
    end = [letters.index(letter) + 256 for letter in "tx"]
    merged = 2 * 256
    first, last = 523 - 2, 523 - 1
    assert clip.tokenizer("Cat")["input_ids"] == [first, merged + 1, last]  # "ca t</w>"
    assert clip.tokenizer(" a  cat")["input_ids"][1:-1] == [letters.index("a") + 256, merged + 1]
    assert clip.tokenizer("cax")["input_ids"][1:-1] == [merged, end[1]]
    assert clip.tokenizer("origami")["input_ids"][1:-1] == [merged + 6, merged + 8]
    assert len(clip.tokenizer("é")["input_ids"]) == 4  # two bytes


def test_positions_are_resized_bilinearly(clip: CLIP) -> None:
    weight = clip.model.vision_model.embeddings.position_embedding.weight
    found = clip._positions(2, 6)
    assert found.shape == (13, 128)
    assert torch.equal(found[0], weight[0])
    assert torch.equal(clip._positions(4, 4), weight)
    grid = weight[1:].reshape(4, 4, 128)
    for row in range(2):
        for column in range(6):
            y, x = (row + 0.5) * 4 / 2 - 0.5, max(0.0, min(3.0, (column + 0.5) * 4 / 6 - 0.5))
            top, left = int(y), int(x)
            down, right = y - top, x - left
            below, beside = min(top + 1, 3), min(left + 1, 3)
            expected = (1 - down) * ((1 - right) * grid[top, left] + right * grid[top, beside])
            expected += down * ((1 - right) * grid[below, left] + right * grid[below, beside])
            torch.testing.assert_close(found[1 + row * 6 + column], expected)


def test_a_side_with_half_a_patch_is_refused(clip: CLIP) -> None:
    with pytest.raises(ValueError, match="multiples of 16 pixels, got 64 x 40"):
        clip.embed(torch.zeros(1, 3, 64, 40))


def test_a_prompt_that_is_too_long_is_refused(clip: CLIP) -> None:
    with pytest.raises(ValueError, match="has 102 tokens, CLIP takes 77"):
        clip.text_features(["a", "b " * 100])


def test_openai_files_give_the_same_network(
    clip: CLIP, tmp_path: Path, clip_vocabulary_bytes: bytes
) -> None:
    source = place(tmp_path, openai_state(clip.model), clip_vocabulary_bytes)
    loaded = load_clip(source)
    image, prompts = torch.randn(1, 3, 32, 80), ["a clean origami dog.", "cat"]
    with torch.no_grad():
        torch.testing.assert_close(loaded.image_features(image), clip.image_features(image))
    torch.testing.assert_close(loaded.text_features(prompts), clip.text_features(prompts))
    assert torch.equal(loaded.scale, clip.scale)
    assert loaded.model.config.vision_config.hidden_act == "quick_gelu"
    assert all(not p.requires_grad and p.dtype == torch.float32 for p in loaded.parameters())


def test_openais_archive_is_read_without_its_three_numbers(
    clip: CLIP, tmp_path: Path, clip_vocabulary_bytes: bytes
) -> None:
    source = Path(place(tmp_path, {}, clip_vocabulary_bytes))
    jit_archive(openai_state(clip.model), source)
    loaded = load_clip(str(source))
    for key, value in clip.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[key], value.half().float()), key


def test_the_published_vit_b16_fits_key_by_key() -> None:
    import transformers

    state: dict[str, Tensor] = {}

    def add(name: str, *shape: int) -> None:
        state[name] = torch.empty(shape, device="meta")

    add("visual.class_embedding", 768)
    add("visual.positional_embedding", 197, 768)
    add("visual.proj", 768, 512)
    add("visual.conv1.weight", 768, 3, 16, 16)
    add("token_embedding.weight", 49408, 512)
    add("positional_embedding", 77, 512)
    add("text_projection", 512, 512)
    add("logit_scale")
    for name, width in (("visual.ln_pre", 768), ("visual.ln_post", 768), ("ln_final", 512)):
        add(f"{name}.weight", width)
        add(f"{name}.bias", width)
    for prefix, width in (("visual.transformer", 768), ("transformer", 512)):
        for i in range(12):
            for part, rows, columns in (
                ("attn.out_proj.", width, width),
                ("mlp.c_fc.", 4 * width, width),
                ("mlp.c_proj.", width, 4 * width),
                ("attn.in_proj_", 3 * width, width),
            ):
                add(f"{prefix}.resblocks.{i}.{part}weight", rows, columns)
                add(f"{prefix}.resblocks.{i}.{part}bias", rows)
            for norm in ("ln_1", "ln_2"):
                add(f"{prefix}.resblocks.{i}.{norm}.weight", width)
                add(f"{prefix}.resblocks.{i}.{norm}.bias", width)
    sizes = clip_sizes(state, Path("ViT-B-16.pt"))
    assert (sizes.vision.heads, sizes.text.heads) == (12, 8)
    assert (sizes.patch, sizes.image, sizes.projection) == (16, 224, 512)
    assert (sizes.vocabulary, sizes.context) == (49408, 77)
    config = transformers.CLIPConfig(
        vision_config={"patch_size": 16}, text_config={}, projection_dim=512
    )
    with torch.device("meta"):
        wanted = transformers.CLIPModel(config).state_dict()
    assert len(wanted) == 398
    compare_keys(wanted, to_transformers(state), Path("ViT-B-16.pt"))


def without(state: dict[str, Tensor], key: str) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: without(s, "ln_final.bias"), r"Missing keys: \['text_model.final_layer_norm.bi"),
        (lambda s: {**s, "visual.extra": torch.ones(1)}, r"surplus keys: \['visual.extra'\]"),
        (lambda s: {**s, "visual.proj": torch.ones(64, 24)}, r"\(24, 64\) instead of \(24, 128\)"),
        (
            lambda s: {**s, "transformer.resblocks.0.attn.in_proj_bias": torch.ones(100)},
            r"surplus keys: \['transformer.resblocks.0.attn.in_proj_bias'\]",
        ),
        (lambda s: without(s, "visual.conv1.weight"), "lacks a weight .*visual.conv1.weight"),
        (lambda s: {**s, "visual.proj": torch.ones(3)}, "lacks a weight or a dimension"),
        (lambda s: {**s, "visual.attnpool.c_proj.bias": torch.ones(1)}, "CLIP with a ResNet"),
        (lambda s: {"vision_model.a": torch.ones(1)}, "names of transformers; give the folder"),
        (lambda s: {"a": 3}, "holds no state dict"),
        (lambda s: [torch.ones(1)], "holds no state dict"),
        (
            lambda s: {**s, "transformer.resblocks.0.mlp.c_fc.weight": torch.ones(8, 1280)},
            "width 1280 is none of OpenAI's",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_that_does_not_fit_is_refused_by_name(
    clip: CLIP, tmp_path: Path, clip_vocabulary_bytes: bytes, change: Any, message: str
) -> None:
    source = place(tmp_path, change(openai_state(clip.model)), clip_vocabulary_bytes)
    with pytest.raises(WeightsError, match=message) as caught:
        load_clip(source)
    assert source in str(caught.value)


def test_a_damaged_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "clip.pt").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(WeightsError, match="clip.pt: cannot be read as a CLIP checkpoint"):
        load_clip(str(tmp_path / "clip.pt"))
    with pytest.raises(WeightsError, match="set MODEL.CLASSIFIER.WEIGHTS to 'clip_vit_b16'"):
        load_clip("")


def copy(clip_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(clip_folder, tmp_path / "copy"))


def test_a_folder_that_is_not_clip_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = copy(clip_folder, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "siglip"}))
    with pytest.raises(WeightsError, match="model_type is 'siglip', expected 'clip'"):
        load_clip(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(WeightsError, match=r"config.json: cannot be read"):
        load_clip(str(folder))


def test_a_folder_without_its_weights_or_words_is_refused(
    clip_folder: Path, tmp_path: Path
) -> None:
    folder = copy(clip_folder, tmp_path)
    (folder / "merges.txt").write_text("not a pair of tokens")
    with pytest.raises(WeightsError, match="copy: its tokenizer cannot be loaded"):
        load_clip(str(folder))
    (folder / "merges.txt").unlink()
    with pytest.raises(WeightsError, match="has no tokenizer; expected tokenizer.json"):
        load_clip(str(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match="copy: cannot be loaded as a CLIP model"):
        load_clip(str(folder))


def test_a_folder_with_other_weights_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy(clip_folder, tmp_path)
    weights = folder / "model.safetensors"
    state = load_file(weights)
    state["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    save_file(state, weights, metadata={"format": "pt"})
    load_clip(str(folder))  # what older files hold as well
    state["visual.adapter"] = torch.ones(2)
    del state["visual_projection.weight"]
    save_file(state, weights, metadata={"format": "pt"})
    with pytest.raises(WeightsError, match=r"Missing keys: \['visual_proj.*\['visual.adapter'\]"):
        load_clip(str(folder))


def test_a_tokenizer_of_another_network_is_refused(clip_folder: Path, tmp_path: Path) -> None:
    folder = copy(clip_folder, tmp_path)
    ids = json.loads((folder / "vocab.json").read_text())
    (folder / "vocab.json").write_text(json.dumps({**ids, "new": len(ids)}))
    with pytest.raises(WeightsError, match="knows 524 tokens, the network 523"):
        load_clip(str(folder))


def test_missing_packages_are_named(
    clip: CLIP, clip_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(openai_state(clip.model), tmp_path / "clip.pt")
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "open_clip" else real(name)
    )
    with pytest.raises(ImportError, match=r"pip install open-clip-torch, or place bpe_simple_vo"):
        load_clip(str(tmp_path / "clip.pt"))
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"pip install 'transformers>=4.40'"):
        load_clip(str(clip_folder))


def test_the_words_of_an_openai_file_come_from_beside_it_or_from_open_clip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site" / "open_clip"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('is not to be imported')")
    monkeypatch.syspath_prepend(str(package.parent))
    assert find_vocabulary(tmp_path / "clip.pt") == package / VOCABULARY
    (tmp_path / VOCABULARY).touch()
    assert find_vocabulary(tmp_path / "clip.pt") == tmp_path / VOCABULARY


def test_a_list_of_words_that_is_damaged_or_short_is_refused(
    tmp_path: Path, clip_vocabulary_bytes: bytes
) -> None:
    source = tmp_path / VOCABULARY
    source.write_bytes(clip_vocabulary_bytes[:-20])
    with pytest.raises(WeightsError, match="cannot be read"):
        read_vocabulary(source, 523)
    source.write_bytes(clip_vocabulary_bytes)
    with pytest.raises(WeightsError, match="is not a list of at least 48894 merges"):
        read_vocabulary(source, 49408)
