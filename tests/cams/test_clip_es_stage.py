"""CLIP-ES from a config, in the stage that writes maps, and under the prompts made of them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from torch.nn import functional as F

from weaksam_d2 import add_weaksam_config
from weaksam_d2.artifacts import CamStore, CamStoreWriter
from weaksam_d2.cams import CLIPES, ImageClassifier, generate_cams, load_clip
from weaksam_d2.cams.clip_es import RefinementSettings
from weaksam_d2.engine.stages.image_stages import Placement, cams_stage
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.prompts import CrossAttentionPeaks
from weaksam_d2.prompts.peaks import PeakSettings

NAMES = ["cat", "dog", "person", "bird"]
GROUND = ["sky", "sea", "grass"]


def tiny_config(clip_folder: Path) -> Any:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.merge_from_list(
        [
            *("MODEL.CLASSIFIER.NETWORK", "CLIPES", "MODEL.CLASSIFIER.WEIGHTS", str(clip_folder)),
            *("MODEL.CLASSIFIER.CLIPES.NAMES", "voc", "MODEL.ROI_HEADS.NUM_CLASSES", 4),
            *("MODEL.CLASSIFIER.CLIPES.AFFINITY_BLOCKS", 2, "WEAKSAM.CAMS.CROSS_BLOCKS", (2, 3)),
            *("MODEL.CLASSIFIER.CLIPES.BACKGROUND", GROUND, "DATASETS.TRAIN", ("clip_es_toys",)),
            *("MODEL.META_ARCHITECTURE", "ImageClassifier", "MODEL.DEVICE", "cpu"),
            *("MODEL.PIXEL_STD", [68.0] * 3, "WEAKSAM.CAMS.SCALES", (1.0, 0.5)),
            *("WEAKSAM.CAMS.RESIZE", "ceil16"),
        ]
    )
    return cfg


@pytest.fixture
def toys(tmp_path: Path) -> Iterator[list[dict[str, Any]]]:
    """A registered data set: two noisy images, of two classes and of none."""
    rng = np.random.default_rng(0)
    records = []
    for image_id, (height, width), labels in (("a", (60, 90), [1, 3]), ("b", (33, 47), [])):
        pixels = rng.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{image_id}.png")
        records.append(
            {
                **{"image_id": image_id, "file_name": str(tmp_path / f"{image_id}.png")},
                **{"height": height, "width": width, "image_labels": labels},
            }
        )
    DatasetCatalog.register("clip_es_toys", lambda: records)
    MetadataCatalog.get("clip_es_toys").thing_classes = NAMES
    yield records
    DatasetCatalog.remove("clip_es_toys")
    MetadataCatalog.remove("clip_es_toys")


def test_a_config_gives_the_network_of_its_keywords(clip_folder: Path, toys: Any) -> None:
    cfg = tiny_config(clip_folder)
    built = CLIPES(cfg).eval()
    image, classes = torch.randn(3, 48, 64), torch.tensor([2, 3])
    written = CLIPES(
        clip=load_clip(str(clip_folder)),
        class_names=NAMES,
        names="voc",
        background=GROUND,
        refinement=RefinementSettings(blocks=2),
        cross_blocks=(2, 3),
    ).eval()
    expected = written.maps(image, classes)
    for found, wanted in zip(built.maps(image, classes), expected, strict=True):
        assert torch.equal(found, wanted)
    cfg.WEAKSAM.CAMS.SAVE_CROSS = False
    assert CLIPES(cfg).kinds == ("coarse", "fine")


def test_a_config_without_class_names_is_refused(clip_folder: Path, toys: Any) -> None:
    cfg = tiny_config(clip_folder)
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 20
    with pytest.raises(ValueError, match="'clip_es_toys' has 4 classes.*NUM_CLASSES is 20"):
        CLIPES(cfg)
    cfg.DATASETS.TRAIN = ("clip_es_unknown",)
    with pytest.raises(ValueError, match="'clip_es_unknown' of DATASETS has no class names"):
        CLIPES(cfg)
    MetadataCatalog.remove("clip_es_unknown")
    cfg.DATASETS.TRAIN, cfg.DATASETS.TEST = (), ()
    with pytest.raises(ValueError, match="set DATASETS.TRAIN or TEST"):
        CLIPES(cfg)


def test_the_stage_stores_one_attention_row_for_an_image_and_prompts_take_its_peaks(
    clip_folder: Path, toys: list[dict[str, Any]], tmp_path: Path
) -> None:
    cfg = tiny_config(clip_folder)
    manifest = cams_stage(cfg, "clip_es_toys", None, Placement(tmp_path / "cams"))
    assert manifest is not None and manifest.counts == {"images": 2, "maps": 2, "skipped": []}
    store = CamStore.open(tmp_path / "cams")
    maps = store["a"]
    assert maps.classes.tolist() == [1, 3] and maps.cross is not None and maps.fine is not None
    assert [m.shape for m in maps.coarse] == [(2, 4, 6), (2, 2, 3)]
    assert [m.shape for m in maps.fine] == [(2, 4, 6), (2, 2, 3)]
    assert [m.shape for m in maps.cross] == [(1, 2, 2, 4, 6), (1, 2, 2, 2, 3)]
    assert len(store["b"].classes) == 0
    source = CrossAttentionPeaks(settings=PeakSettings(kernel_size=9, topk=5))
    peaks = source(toys[0], maps)
    assert len(peaks) >= 4 and set(peaks.classes) == {-1}
    assert set(peaks.heads) == {0, 1} and set(peaks.blocks) == {2, 3}
    assert len(source(toys[1], store["b"])) == 0


def test_predicted_classes_need_no_tags(
    clip_folder: Path, toys: list[dict[str, Any]], tmp_path: Path
) -> None:
    network = CLIPES(tiny_config(clip_folder)).eval()
    model = ImageClassifier(
        network=network, num_classes=4, pixel_mean=[122.0] * 3, pixel_std=[68.0] * 3
    )
    record = {k: v for k, v in toys[0].items() if k != "image_labels"}
    image = torch.from_numpy(np.array(Image.open(record["file_name"]))).permute(2, 0, 1)
    with torch.no_grad():
        resized = F.interpolate(
            image[None].float(), size=(64, 96), mode="bicubic", antialias=True
        ).clamp(0, 255)
        (logits,) = network.class_logits(model.normalize(resized[0])[None])
    cut = float(logits.sort().values[0, 1:3].mean())
    with CamStoreWriter(
        tmp_path / "cams",
        **{"class_names": NAMES, "network": "CLIPES", "scales": (1.0,)},
        **{"heads": network.heads, "blocks": network.blocks, "cross_rows": network.cross_rows},
    ) as writer:
        generate_cams([record], model, writer=writer, scales=(1.0,), gate="pred", pred_logit=cut)
    classes = CamStore.open(tmp_path / "cams")["a"].classes
    assert classes.tolist() == torch.nonzero(logits[0] > cut)[:, 0].tolist()
    assert len(classes) == 2


@pytest.mark.parametrize(
    ("name", "classes", "words", "box"),
    [
        ("PascalVOC-Classification/clip_es_vit_b16", 20, "voc", ("half_open", 0.4)),
        ("COCO-Classification/clip_es_vit_b16", 80, "coco", ("half_open", 0.7)),
        ("reference/clip_es", 80, "dataset", ("reference", 0.4)),
    ],
)
def test_configs_say_what_differs(
    name: str, classes: int, words: str, box: tuple[str, float]
) -> None:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    cfg.merge_from_file(get_config_file(f"{name}.yaml"))
    node = cfg.MODEL.CLASSIFIER.CLIPES
    assert (classes, words) == (cfg.MODEL.ROI_HEADS.NUM_CLASSES, node.NAMES)
    assert box == (node.BOX, node.BOX_THRESH)
    if "vit_b16" in name:
        assert len(MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).thing_classes) == classes
        assert cfg.MODEL.CLASSIFIER.WEIGHTS == "clip_vit_b16"
        mean, std = np.array(cfg.MODEL.PIXEL_MEAN) / 255, np.array(cfg.MODEL.PIXEL_STD) / 255
        assert np.allclose(mean, [0.48145466, 0.4578275, 0.40821073], atol=1e-7)
        assert np.allclose(std, [0.26862954, 0.26130258, 0.27577711], atol=1e-7)
        cams = cfg.WEAKSAM.CAMS
        assert (tuple(cams.SCALES), cams.FLIP, cams.RESIZE) == ((1.0,), False, "ceil16")
