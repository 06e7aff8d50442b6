"""Tiny random CLIP and Grounding DINO with true tokenizers, and a data set of two images."""

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from PIL import Image
from weaksam_d2.projects.boxsam import add_boxsam_config

from weaksam_d2.data import register_tagged_folder
from weaksam_d2.engine import cli

HEIGHT, WIDTH = 40, 60
CLASSES = ["cat", "dog", "pottedplant"]
MERGES = ["c a", "ca t</w>", "d o", "do g</w>", "o f</w>"]
WORDS = ["cat", "dog", "potted", "plant", "per", "##son", "dining", "table"]


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random CLIP of two blocks for 32 x 32 images, with its tokenizer."""
    import transformers

    from weaksam_d2.cams.clip_vocabulary import read_vocabulary

    folder = tmp_path_factory.mktemp("boxsam_clip")
    size = len(MERGES) + 2 * 256 + 2
    (folder / "list.gz").write_bytes(gzip.compress("\n".join(["#", *MERGES, ""]).encode()))
    tokens, merges = read_vocabulary(folder / "list.gz", size)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]))
    shared = {"num_hidden_layers": 2, "intermediate_size": 32, "projection_dim": 16}
    config = transformers.CLIPConfig(
        vision_config={
            **shared,
            **{"hidden_size": 32, "num_attention_heads": 2, "image_size": 32, "patch_size": 16},
        },
        text_config={
            **shared,
            **{"hidden_size": 64, "num_attention_heads": 1, "vocab_size": size},
            **{"bos_token_id": size - 2, "eos_token_id": size - 1},
        },
        projection_dim=16,
    )
    torch.manual_seed(1)
    model = transformers.CLIPModel(config)
    for name, weight in model.named_parameters():
        if "norm" not in name and weight.dim() > 1:  # embeddings that differ from image to image
            torch.nn.init.normal_(weight, std=0.3)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Grounding DINO on a Swin of four blocks, with its image processor and tokenizer."""
    import transformers

    folder = tmp_path_factory.mktemp("boxsam_dino")
    # The model knows its special tokens by their ids in BERT's vocabulary.
    vocabulary = [f"[unused{i}]" for i in range(1030)]
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    for place, token in {**special, 1012: ".", 1029: "?"}.items():
        vocabulary[place] = token
    vocabulary += WORDS
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    config = transformers.GroundingDinoConfig(
        backbone_config=transformers.SwinConfig(
            image_size=64,
            embed_dim=12,
            depths=[1, 1, 1, 1],
            num_heads=[1, 1, 2, 2],
            window_size=4,
            out_features=["stage2", "stage3", "stage4"],
        ),
        text_config=transformers.BertConfig(
            vocab_size=len(vocabulary),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
        ),
        **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 12},
        **{"encoder_ffn_dim": 16, "decoder_ffn_dim": 16},
        **{"encoder_attention_heads": 2, "decoder_attention_heads": 2},
    )
    torch.manual_seed(2)
    transformers.GroundingDinoForObjectDetection(config).save_pretrained(folder)
    transformers.GroundingDinoProcessor(
        transformers.GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96}),
        transformers.BertTokenizerFast.from_pretrained(str(folder)),
    ).save_pretrained(folder)
    return folder


@pytest.fixture()
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture()
def cfg() -> Any:
    """The defaults, with FakeSam."""
    made = cli.base_config(add_boxsam_config)
    made.MODEL.DEVICE = "cpu"
    made.WEAKSAM.SAM.BACKEND = "FakeSam"
    return made


@pytest.fixture()
def animals(tmp_path: Path) -> Iterator[str]:
    """A weak set of two images (cat and dog; cat) and its annotated twin ``animals_eval``."""
    boxes = {"a": [(0, (4, 4, 24, 24)), (1, (30, 10, 50, 34))], "b": [(0, (0, 0, 60, 40))]}
    known = set(DatasetCatalog.list())
    records = []
    for number, (name, objects) in enumerate(boxes.items()):
        rng = np.random.default_rng(number)
        pixels = rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        annotations = [
            {"bbox": list(box), "bbox_mode": BoxMode.XYXY_ABS, "category_id": c, "iscrowd": 0}
            for c, box in objects
        ]
        path = str(tmp_path / f"{name}.png")
        head = {"file_name": path, "image_id": name, "height": HEIGHT, "width": WIDTH}
        records.append({**head, "annotations": annotations})
    DatasetCatalog.register("animals_eval", lambda: records)
    MetadataCatalog.get("animals_eval").set(thing_classes=CLASSES)
    (tmp_path / "tags.csv").write_text("a.png,cat;dog\nb.png,cat\n")
    register_tagged_folder(
        "animals_weak",
        image_root=tmp_path,
        tags=tmp_path / "tags.csv",
        classes=CLASSES,
        evaluation_name="animals_eval",
    )
    yield "animals_weak"
    for name in set(DatasetCatalog.list()) - known:
        DatasetCatalog.remove(name)
        if name in MetadataCatalog.list():
            MetadataCatalog.remove(name)


@pytest.fixture()
def find_boxes() -> Callable[..., Any]:
    """A detector that finds what it is told: word to (box, score) pairs."""

    def make(known: dict[str, list[tuple[tuple[float, ...], float]]]) -> Any:
        def find(image: np.ndarray, words: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
            rows = [(b, k, s) for k, word in enumerate(words) for b, s in known.get(word, [])]
            scores = torch.zeros(len(rows), len(words))
            for row, (_, column, score) in enumerate(rows):
                scores[row, column] = score
            return torch.tensor([r[0] for r in rows]).reshape(-1, 4), scores

        return find

    return make
