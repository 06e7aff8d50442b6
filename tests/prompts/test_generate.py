"""build_prompt_sources and generate_prompts: from a config and a store to a prompt set."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.config import CfgNode, get_cfg

from weaksam_d2.artifacts import CamMaps, CamStore, CamStoreWriter, PromptSet, PromptSetWriter
from weaksam_d2.config import add_weaksam_config
from weaksam_d2.prompts import PromptsSummary, build_prompt_sources, generate_prompts

RECORDS = [{"image_id": name, "height": 32, "width": 48} for name in ("b", "a", "none")]


@pytest.fixture
def cfg() -> CfgNode:
    cfg = get_cfg()
    add_weaksam_config(cfg)
    return cfg


def _store(path: Path, *, fine: bool) -> CamStore:
    with CamStoreWriter(path, class_names=("x", "y"), network="CNN", scales=(1.0,)) as writer:
        for row, record in enumerate(RECORDS):
            classes = np.arange(2 - row)
            maps = np.zeros((len(classes), 32, 48), np.float32)
            maps[:, 10, 5] = 1.0
            maps[:, 20, 40] = 0.96875  # exact in float16
            writer.add(
                record["image_id"],
                CamMaps((32, 48), classes, (maps,), fine=(maps,) if fine else None),
            )
    return CamStore.open(path)


def _prompt_set(
    path: Path, cfg: CfgNode, cams: CamStore | None, **extra: Any
) -> tuple[PromptSet, PromptsSummary]:
    sources = build_prompt_sources(cfg)
    with PromptSetWriter(
        path, source_names=[s.name for s in sources], grid={"points_per_side": 32}
    ) as writer:
        summary = generate_prompts(RECORDS, sources, cams=cams, writer=writer, **extra)
    return PromptSet.open(path), summary


def test_sources_are_written_in_order_and_the_grid_is_not(cfg: CfgNode, tmp_path: Path) -> None:
    progress: list[int] = []
    store = _store(tmp_path / "cams", fine=True)
    prompts, summary = _prompt_set(tmp_path / "p", cfg, store, on_progress=progress.append)
    assert prompts.image_ids == ["b", "a", "none"] and prompts.image_size("a") == (32, 48)
    first = prompts["b"]
    # Two classes of two peaks: four singles and two joint prompts for each kind of map.
    assert np.diff(first.offsets).tolist() == [1, 1, 1, 1, 2, 2] * 2
    assert [first.source_names[row] for row in first.sources] == (
        ["CoarseCAMPeaks"] * 6 + ["FineCAMPeaks"] * 6
    )
    assert first.classes.tolist() == [0, 0, 1, 1, 0, 1] * 2
    assert len(prompts["a"]) == 6 and len(prompts["none"]) == 0
    assert summary.counts() == {
        "images": 3,
        "prompts": 18,
        "prompts_CoarseCAMPeaks": 9,
        "prompts_CrossAttentionPeaks": 0,
        "prompts_FineCAMPeaks": 9,
    }
    assert progress == [1, 1, 1]


def test_a_store_without_fine_maps_gives_coarse_prompts_alone(cfg: CfgNode, tmp_path: Path) -> None:
    prompts, _ = _prompt_set(tmp_path / "p", cfg, _store(tmp_path / "cams", fine=False))
    assert {prompts["b"].source_names[row] for row in prompts["b"].sources} == {"CoarseCAMPeaks"}


def test_without_maps_the_prompt_set_is_the_grid(cfg: CfgNode, tmp_path: Path) -> None:
    prompts, summary = _prompt_set(tmp_path / "p", cfg, None)
    assert summary.counts()["prompts"] == 0
    assert prompts.grid == {"points_per_side": 32} and len(prompts["a"]) == 0


def test_the_peaks_of_clusters_are_stored_with_head_and_block(cfg: CfgNode, tmp_path: Path) -> None:
    cross = np.zeros((1, 2, 2, 32, 48), np.float32)
    for head, block in np.ndindex(2, 2):
        cross[0, head, block, 7 + head, 9] = 1.0
    maps = CamMaps(
        (32, 48), np.array([1]), (np.zeros((1, 32, 48)),), cross=(cross,), blocks=(11, 12)
    )
    records = [RECORDS[0]]
    with CamStoreWriter(
        tmp_path / "cams",
        class_names=("x", "y"),
        network="WeakTr",
        scales=(1.0,),
        heads=2,
        blocks=(11, 12),
    ) as cams:
        cams.add("b", maps)
    store = CamStore.open(tmp_path / "cams")
    for save in (True, False):
        cfg.WEAKSAM.PROMPTS.CROSS.SAVE_PEAKS = save
        sources = build_prompt_sources(cfg)
        names = [s.name for s in sources]
        path = tmp_path / f"prompts_{save}"
        with PromptSetWriter(path, source_names=names, grid=None) as writer:
            generate_prompts(records, sources, cams=store, writer=writer)
        prompts = PromptSet.open(path)
        assert prompts["b"].points.tolist() == [[9, 7.5]]
        assert [names[row] for row in prompts["b"].sources] == ["CrossAttentionPeaks"]
        peaks = prompts.peaks("b")
        if not save:
            assert peaks is None
            continue
        assert peaks[["y", "class", "head", "block", "prompt"]].tolist() == [
            (7, 1, 0, 11, 0),
            (7, 1, 0, 12, 0),
            (8, 1, 1, 11, 0),
            (8, 1, 1, 12, 0),
        ]


def test_an_image_that_the_store_lacks_is_an_error(cfg: CfgNode, tmp_path: Path) -> None:
    store = _store(tmp_path / "cams", fine=False)
    RECORDS.append({"image_id": "other", "height": 32, "width": 48})
    try:
        with pytest.raises(KeyError, match="other"):
            _prompt_set(tmp_path / "p", cfg, store)
    finally:
        RECORDS.pop()
    assert not (tmp_path / "p").exists()


def test_config_and_keywords_agree(cfg: CfgNode) -> None:
    cfg.WEAKSAM.PROMPTS.CROSS.KERNEL_SIZE = 65
    grid, coarse, _, cross = build_prompt_sources(cfg)
    assert grid.points_per_side == 32
    assert coarse.settings == type(coarse.settings)(joint=True)
    assert cross.settings == type(coarse.settings)(kernel_size=65, cluster_divisor=5)


@pytest.mark.parametrize("names", [(), ("Grid", "Grid"), ("Grid", "Peaks")])
def test_wrong_sources_are_named(cfg: CfgNode, names: tuple[str, ...]) -> None:
    cfg.WEAKSAM.PROMPTS.SOURCES = names
    with pytest.raises(ValueError, match="WEAKSAM.PROMPTS.SOURCES"):
        build_prompt_sources(cfg)
