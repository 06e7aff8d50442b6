"""The import of official maps as a stage: parts, resuming, and what identifies a store."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from weaksam_d2.artifacts import (
    ArtifactMismatchError,
    CamStore,
    ForeignFileError,
    RunManifest,
    UnsafePickleError,
    describe_input,
    list_outputs,
    read_json,
)
from weaksam_d2.cams import OfficialCams, read_cam
from weaksam_d2.data import register_tagged_folder
from weaksam_d2.engine.cli import base_config
from weaksam_d2.engine.stages.cam_import import import_cams_stage
from weaksam_d2.engine.stages.image_stages import Placement

NAME = "cam_import_weak"
SIZE = (24, 32)
SETTINGS = OfficialCams("class_maps")
MAPS = np.random.default_rng(0).random((5, *SIZE)).astype(np.float16)


@pytest.fixture()
def birds(tmp_path: Path) -> Iterator[Path]:
    """Five tagged images, and a map file of each."""
    (tmp_path / "photos").mkdir()
    (tmp_path / "maps").mkdir()
    lines = []
    for i in range(5):
        Image.new("RGB", SIZE[::-1]).save(tmp_path / f"photos/{i}.png")
        lines.append(f"{i}.png,{('duck', 'swan')[i % 2]}\n")
        np.save(tmp_path / f"maps/{i}.npy", {i % 2: MAPS[i]})  # type: ignore[arg-type]
    (tmp_path / "tags.csv").write_text("".join(lines))
    register_tagged_folder(NAME, image_root=tmp_path / "photos", tags=tmp_path / "tags.csv")
    yield tmp_path
    DatasetCatalog.remove(NAME)
    MetadataCatalog.remove(NAME)


def run(
    folder: Path, output: str, settings: OfficialCams = SETTINGS, **options: Any
) -> RunManifest:
    place = Placement(folder / output, **options)
    manifest = import_cams_stage(base_config(), NAME, folder / "maps", settings, place)
    assert manifest is not None
    return manifest


def test_the_store_says_where_it_is_from_and_its_bytes_depend_on_no_part(birds: Path) -> None:
    manifest = run(birds, "whole")
    assert manifest.stage == "cams" and manifest.status == "complete"
    assert manifest.counts["images"] == manifest.counts["maps"] == 5
    assert manifest.inputs == [describe_input("official_maps", birds / "maps")]
    assert read_json(birds / "whole/config.json") == {
        "import.layout": "class_maps", "import.channels": "contiguous", "import.gate": "gt",
        "import.normalize": "none", "import.stride": 1, "import.missing": "error",
    }  # fmt: skip
    run(birds, "parts", part_size=2)
    assert list_outputs(birds / "whole") == list_outputs(birds / "parts")
    store = CamStore.open(birds / "whole")
    assert store.image_ids == [*"01234"] and store.class_names == ["duck", "swan"]
    for i in range(5):
        cam, classes = read_cam(store, str(i))
        assert classes.tolist() == [i % 2]
        np.testing.assert_array_equal(cam[0], MAPS[i].astype(np.float32))


def test_a_run_goes_on_after_the_file_that_stopped_it(birds: Path) -> None:
    good = (birds / "maps/3.npy").read_bytes()
    (birds / "maps/3.npy").write_bytes(good[:-40])
    settings = replace(SETTINGS)
    with pytest.raises(ForeignFileError, match=r"3\.npy is not a readable"):
        run(birds, "out", settings, part_size=2)
    assert not (birds / "out").exists()
    assert (birds / "out.parts/part-000000").is_dir()
    # Files that changed make another store: what was there is not taken for it.
    (birds / "maps/3.npy").write_bytes(good)
    with pytest.raises(ArtifactMismatchError, match="its input official_maps changed"):
        run(birds, "out", settings, part_size=2)
    assert run(birds, "out", settings, overwrite=True).counts["images"] == 5
    made = (birds / "out/manifest.json").stat().st_mtime_ns
    assert run(birds, "out", settings).counts["images"] == 5
    assert (birds / "out/manifest.json").stat().st_mtime_ns == made
    with pytest.raises(ArtifactMismatchError, match="import.stride was 1 and is 2"):
        run(birds, "out", replace(SETTINGS, stride=2))


def test_a_finished_part_is_not_made_again(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from weaksam_d2.cams import official_maps as module

    read, seen = module.read_official_maps, []

    def dies_at_the_fourth(path: Path, layout: str) -> Any:
        seen.append(path.stem)
        if seen == [*"0123"]:
            raise KeyboardInterrupt
        return read(path, layout)

    monkeypatch.setattr(module, "read_official_maps", dies_at_the_fourth)
    with pytest.raises(KeyboardInterrupt):
        run(birds, "out", part_size=2)
    assert run(birds, "out").counts["images"] == 5
    assert seen == [*"0123", *"234"]
    monkeypatch.undo()
    run(birds, "again")
    assert list_outputs(birds / "out") == list_outputs(birds / "again")


def test_a_malicious_file_makes_no_store(birds: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(birds)

    class Call:
        def __reduce__(self) -> Any:
            import os

            return os.system, ("touch ran",)

    np.save(birds / "maps/2.npy", {0: Call()})  # type: ignore[arg-type]
    with pytest.raises(UnsafePickleError, match=r"2\.npy asks for \w+\.system"):
        run(birds, "out")
    assert not (birds / "ran").exists() and not (birds / "out").exists()
    with pytest.raises(KeyError, match="'nothing' is not registered"):
        place = Placement(birds / "out")
        import_cams_stage(base_config(), "nothing", birds / "maps", SETTINGS, place)
