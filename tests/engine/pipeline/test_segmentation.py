"""Which pipeline a YAML describes, and what a segmentation pipeline refuses before it starts."""

import sys
from pathlib import Path

import pytest

from weaksam_d2.engine.pipeline.base import PipelineSettings
from weaksam_d2.engine.pipeline.choice import open_pipeline
from weaksam_d2.engine.pipeline.pipeline import Pipeline
from weaksam_d2.engine.pipeline.segmentation import SegmentationPipeline
from weaksam_d2.projects import add_all_configs

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "pipelines"


def settings(name: str, tmp_path: Path, *opts: str, **more: dict) -> PipelineSettings:
    return PipelineSettings(
        CONFIGS / name, tmp_path / "run", opts=opts, extend_config=add_all_configs, **more
    )


def test_a_segmenter_in_the_yaml_decides_where_the_road_leads(tmp_path: Path) -> None:
    assert isinstance(open_pipeline(settings("scenes_quick.yaml", tmp_path)), Pipeline)
    chosen = open_pipeline(settings("scenes_quick_sepl.yaml", tmp_path))
    assert isinstance(chosen, SegmentationPipeline)
    assert tuple(chosen.default_stages()) == ("sam_masks", "cams", "labels", "segment")
    boxes = open_pipeline(settings("scenes_quick_boxsam.yaml", tmp_path))
    assert tuple(boxes.default_stages()) == ("labels", "segment")


def test_a_source_that_reads_prompts_adds_their_stage(tmp_path: Path) -> None:
    opts = ("PIPELINE.LABELS", "('CAM', 'PromptedSAM')")
    pipeline = open_pipeline(settings("scenes_quick_sepl.yaml", tmp_path, *opts))
    assert "prompts" in pipeline.default_stages()


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("PIPELINE.SEGMENTER_LABELS", "BoxSAM", ValueError, "expected one of PIPELINE.LABELS"),
        ("PIPELINE.LABELS", "()", ValueError, "name a label source"),
        ("PIPELINE.LABELS", "('Magic',)", KeyError, "Magic"),
        ("WEAKSAM.LABELS.CRF", "", ValueError, "WEAKSAM.LABELS.CRF is ''"),
    ],
)
def test_labels_that_do_not_exist_are_refused(
    tmp_path: Path, key: str, value: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        open_pipeline(settings("scenes_quick_sepl.yaml", tmp_path, key, value))


def test_options_of_a_stage_that_is_not_trained_are_refused(tmp_path: Path) -> None:
    wrong = settings("scenes_quick_sepl.yaml", tmp_path, stage_opts={"wsod": ["SEED", "1"]})
    with pytest.raises(ValueError, match="trains classifier, baseline, segment"):
        open_pipeline(wrong)


def test_refining_labels_needs_some_that_were_made_before(tmp_path: Path) -> None:
    opts = ("PIPELINE.LABELS", "('SEPL',)")
    pipeline = open_pipeline(settings("scenes_quick_sepl.yaml", tmp_path, *opts))
    assert isinstance(pipeline, SegmentationPipeline)
    with pytest.raises(ValueError, match="begins with 'SEPL'"):
        pipeline._inputs("SEPL", "", None)


def test_a_missing_crf_is_said_before_anything_runs_and_can_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pydensecrf", None)
    with pytest.raises(ImportError, match="CRF out of PIPELINE.LABELS"):
        open_pipeline(settings("scenes_s2c.yaml", tmp_path))
    opts = ("WEAKSAM.LABELS.CRF", "", "PIPELINE.LABELS", "('CAM', 'SEPL')", "SEPL.START", "cam")
    opts += ("PIPELINE.SEGMENTER_LABELS", "CAM")
    assert isinstance(
        open_pipeline(settings("scenes_s2c.yaml", tmp_path, *opts)), SegmentationPipeline
    )
