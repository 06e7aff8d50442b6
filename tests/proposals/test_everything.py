"""Stored masks, "everything" masks, the reference configs and Table 4's ablation by the config."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from PIL import Image
from pycocotools import mask as coco_mask

from weaksam_d2.artifacts import (
    Prompts,
    Proposals,
    ProposalStore,
    ProposalStoreWriter,
    list_outputs,
    merge_proposal_stores,
)
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.model_zoo import get_config_file
from weaksam_d2.ops import decode_rle, masks_to_boxes, pairwise_iou
from weaksam_d2.proposals import build_proposal_method

IMAGE = np.zeros((40, 60, 3), np.uint8)
NAMES = ("Grid", "CoarseCAMPeaks", "FineCAMPeaks", "CrossAttentionPeaks")


def config(name: str = "", **proposals: Any) -> CfgNode:
    """The defaults, or a config file, with a fake SAM; proposals: keys of WEAKSAM.PROPOSALS."""
    cfg = get_cfg()
    add_weaksam_config(cfg)
    if name:
        cfg.merge_from_file(get_config_file(name))
    cfg.MODEL.DEVICE = "cpu"
    cfg.WEAKSAM.SAM.BACKEND = "FakeSam"
    cfg.WEAKSAM.SAM.POINTS_PER_BATCH = 5
    cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE = 4
    for key, value in proposals.items():
        cfg.WEAKSAM.PROPOSALS[key] = value
    return cfg


def peaks_and_joint() -> Prompts:
    """Prompts of all peak sources: shared points, a joint prompt, one that repeats the grid."""
    groups = [
        (1, [(20, 11)]),
        (1, [(45, 30)]),
        (1, [(20, 11), (45, 30)]),
        (2, [(20, 11)]),
        (2, [(33, 5)]),
        (3, [(20.25, 11)]),
        (3, [(7.5, 5)]),
    ]
    return Prompts(
        points=np.array([p for _, points in groups for p in points], np.float32),
        offsets=np.cumsum([0, *(len(points) for _, points in groups)]),
        scores=np.ones(len(groups)),
        classes=np.zeros(len(groups)),
        sources=np.array([source for source, _ in groups]),
        source_names=NAMES,
    )


def run(cfg: CfgNode, prompts: Prompts | None = None, *, grid: bool = True) -> Proposals:
    parameters = {"points_per_side": 4} if grid else None
    prompts = peaks_and_joint() if prompts is None else prompts
    return build_proposal_method(cfg)(IMAGE, prompts, parameters)


def assert_masks_fit(proposals: Proposals) -> np.ndarray:
    assert proposals.masks is not None and len(proposals.masks) == len(proposals)
    masks = decode_rle(proposals.masks, proposals.image_size)
    np.testing.assert_array_equal(masks_to_boxes(torch.from_numpy(masks)), proposals.boxes)
    return masks


@pytest.mark.parametrize(
    "change",
    [{}, {"MAX_PER_IMAGE": 9}, {"NMS_THRESH": 0.4}, {"DEDUPLICATE": 0.0, "MAX_PER_IMAGE": 0}],
    ids=str,
)
def test_each_box_has_its_own_mask_and_boxes_do_not_depend_on_it(change: dict[str, Any]) -> None:
    plain = run(config(**change))
    with_masks = run(config(SAVE_MASKS=True, **change))
    assert plain.masks is None and len(plain) >= 9
    for name in ("boxes", "scores", "stability", "sources"):
        np.testing.assert_array_equal(getattr(plain, name), getattr(with_masks, name))
    assert_masks_fit(with_masks)


def test_masks_are_those_of_the_prompts_and_not_only_of_their_boxes() -> None:
    cfg = config(SAVE_MASKS=True)
    joint = peaks_and_joint().select([2])
    proposals = run(cfg, joint, grid=False)
    masks = assert_masks_fit(proposals)
    y, x = np.mgrid[:40, :60] + 0.5
    near = np.minimum(np.hypot(x - 20, y - 11), np.hypot(x - 45, y - 30))
    for mask, share in zip(masks, (1.0, 2.0), strict=True):  # indices 1 and 2 of the fake's three
        np.testing.assert_array_equal(mask, near < share * 0.125 * 60)


def test_an_image_without_prompts_has_no_masks() -> None:
    proposals = run(config(SAVE_MASKS=True), peaks_and_joint().select(np.zeros(0, int)), grid=False)
    assert len(proposals) == 0 and proposals.masks == ()


def test_masks_keep_their_places_in_the_store_and_through_a_merge(tmp_path: Path) -> None:
    items = [run(config(SAVE_MASKS=True, MAX_PER_IMAGE=n)) for n in (7, 3, 12)]
    for path, rows in (("all", range(3)), ("p0", range(2)), ("p1", range(2, 3))):
        with ProposalStoreWriter(tmp_path / path, source_names=NAMES) as writer:
            for row in rows:
                item = items[row]
                writer.add(
                    str(row),
                    item.boxes,
                    scores=item.scores,
                    sources=item.sources,
                    masks=item.masks,
                    image_size=item.image_size,
                )
    merge_proposal_stores([tmp_path / "p0", tmp_path / "p1"], tmp_path / "out")
    assert list_outputs(tmp_path / "out") == list_outputs(tmp_path / "all")
    store = ProposalStore.open(tmp_path / "out")
    for row, item in enumerate(items):
        assert store[str(row)].masks == item.masks
        assert_masks_fit(store[str(row)])


def test_masks_of_boxes_at_low_resolution_are_refused() -> None:
    with pytest.raises(ValueError, match="SAVE_MASKS True and BOXES_AT 'low' contradict"):
        build_proposal_method(config(SAVE_MASKS=True, BOXES_AT="low"))


def test_nms_across_sources_keeps_the_earlier_source() -> None:
    # The cross point lies a quarter of a pixel from a coarse one: nearly the same discs.
    off, on = run(config()), run(config(NMS_THRESH=0.9))
    overlap = pairwise_iou(*[torch.from_numpy(off.boxes)] * 2)
    kept: list[int] = []
    for row in range(len(off)):
        if not any(overlap[row, other] > 0.9 for other in kept):
            kept.append(row)
    assert off.sources[kept].tolist() == on.sources.tolist() and len(kept) < len(off)
    np.testing.assert_array_equal(on.boxes, off.boxes[kept])


def dropped(names: tuple[str, ...]) -> Prompts:
    """The full prompts without those of other sources."""
    full = peaks_and_joint()
    return full.select(np.isin(full.sources, [NAMES.index(name) for name in names]))


@pytest.mark.parametrize("names", [NAMES[:1], NAMES[:2], ("Grid", NAMES[2]), NAMES[1:], NAMES])
def test_an_ablation_by_the_config_is_the_full_prompts_without_a_source(
    names: tuple[str, ...],
) -> None:
    cfg = config()
    cfg.WEAKSAM.PROMPTS.SOURCES = names
    named = Prompts.concatenate(
        [renamed(dropped((name,)), names) for name in names]  # a prompt set of these alone
    )
    ours = run(cfg, named, grid="Grid" in names)
    expected = run(config(), dropped(names), grid="Grid" in names)
    np.testing.assert_array_equal(ours.boxes, expected.boxes)
    np.testing.assert_array_equal(ours.sources, expected.sources)


def renamed(prompts: Prompts, names: tuple[str, ...]) -> Prompts:
    rows = np.array([names.index(prompts.source_names[row]) for row in prompts.sources], int)
    return Prompts(**{**vars(prompts), "sources": rows, "source_names": names})


def test_the_first_sources_of_a_store_are_the_run_with_these_sources() -> None:
    full = run(config())
    for count in (1, 2, 3, 4):
        part = run(config(), dropped(NAMES[:count]))
        first = full.sources < count
        np.testing.assert_array_equal(full.boxes[first], part.boxes)
        assert first[: len(part)].all()  # a prefix, so that AR@N of a store is an ablation too


def test_the_reference_configs_change_what_they_say() -> None:
    plain = config()
    kernel = config("reference/paper_kernel.yaml").WEAKSAM.PROMPTS
    for node in (kernel.COARSE, kernel.FINE, kernel.CROSS):
        assert (node.KERNEL_SIZE, node.METRIC, node.TOPK, node.THRESHOLD) == (128, "l2", 0, 0.9)
    reference = config("reference/proposals.yaml")
    assert tuple(reference.WEAKSAM.CAMS.CROSS_BLOCKS) == (9, 10)
    assert reference.WEAKSAM.PROMPTS.CROSS.CLUSTER_TRUNCATE
    assert reference.WEAKSAM.PROPOSALS.GRID == plain.WEAKSAM.PROPOSALS.GRID
    method = build_proposal_method(reference)
    assert (method.step, method.max_boxes, method.nms) == (0.0, 0, 1.0)
    assert len(run(reference)) > len(run(plain))  # repeated boxes stay


@pytest.mark.parametrize(
    ("name", "arch", "thresholds"),
    [
        ("everything_vit_h", "vit_h", (0.88, 0.95, 0.7)),
        ("everything_vit_t", "vit_t", (0.88, 0.95, 0.7)),
        ("sepl_vit_h", "vit_h", (0.86, 0.92, 0.7)),
    ],
)
def test_everything_configs_have_the_published_thresholds(
    name: str, arch: str, thresholds: tuple[float, ...]
) -> None:
    cfg = config(f"SAM-Masks/{name}.yaml")
    grid = cfg.WEAKSAM.PROPOSALS.GRID
    assert arch == cfg.WEAKSAM.SAM.ARCH and tuple(cfg.WEAKSAM.PROMPTS.SOURCES) == ("Grid",)
    assert thresholds == (grid.QUALITY_THRESH, grid.STABILITY_THRESH, grid.NMS_THRESH)
    assert tuple(grid.MASK_INDICES) == (0, 1, 2)
    proposals = build_proposal_method(cfg)(IMAGE, None, None)
    assert_masks_fit(proposals)
    assert (np.diff(proposals.scores) <= 0).all()


@pytest.mark.assets
def test_everything_masks_are_those_of_segment_anything(mobile_sam: Path, real_data: Path) -> None:
    # NOTE: segment_anything does NMS on boxes whose right and lower pixel is not in them, so a
    # pair with an IoU next to 0.7 may be judged differently; here there is none.
    from segment_anything import SamAutomaticMaskGenerator

    cfg = config("SAM-Masks/sepl_vit_h.yaml")
    cfg.WEAKSAM.SAM.BACKEND, cfg.WEAKSAM.SAM.ARCH = "SegmentAnything", "vit_t"
    cfg.WEAKSAM.SAM.WEIGHTS, cfg.WEAKSAM.SAM.INPUT_SIZE = str(mobile_sam), 512
    cfg.WEAKSAM.PROMPTS.GRID.POINTS_PER_SIDE = 6
    photograph = Image.open(real_data / "voc2012" / "JPEGImages" / "2007_000925.jpg")
    image = np.array(photograph.convert("RGB").resize((153, 108)))
    method = build_proposal_method(cfg)
    ours = method(image, None, None)
    theirs = SamAutomaticMaskGenerator(
        method.backend.model,
        points_per_side=6,
        pred_iou_thresh=0.86,
        stability_score_thresh=0.92,
        output_mode="coco_rle",
    ).generate(image)
    assert len(ours) == len(theirs) >= 6
    for mask, other in zip(assert_masks_fit(ours), theirs, strict=True):
        assert (mask != coco_mask.decode(other["segmentation"]).astype(bool)).sum() <= 2
    np.testing.assert_allclose(ours.scores, [m["predicted_iou"] for m in theirs], atol=1e-4)
    np.testing.assert_allclose(ours.stability, [m["stability_score"] for m in theirs], atol=1e-2)
    xywh = np.array([m["bbox"] for m in theirs])
    corners = np.concatenate([xywh[:, :2], xywh[:, :2] + xywh[:, 2:] + 1], axis=1)
    assert np.abs(ours.boxes - corners).max() <= 1
