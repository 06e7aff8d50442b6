"""Models of the hub: folders, the cache, downloads, and what is said without a connection."""

from pathlib import Path
from typing import Any

import pytest
from weaksam_d2.projects.boxsam.hub import PUBLIC_MODELS, hub_folder, weights_source

from weaksam_d2.weights import WeightsError


@pytest.fixture()
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    """Downloads that write a file of weights as asked for, and what was asked."""
    import huggingface_hub

    asked: list[dict[str, Any]] = []

    def download(model: str, **options: Any) -> str:
        asked.append({"model": model, **options})
        folder = tmp_path / model.replace("/", "--")
        folder.mkdir(exist_ok=True)
        name = "pytorch_model.bin" if "old" in model else "model.safetensors"
        if any(Path(name).match(pattern) for pattern in options["allow_patterns"]):
            (folder / name).write_text("")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    return asked


def test_a_folder_is_itself_and_a_model_comes_from_the_hub(
    hub: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert hub_folder(str(tmp_path)) == tmp_path and not hub
    folder = hub_folder("owner/model", cache=tmp_path / "cache")
    assert (folder / "model.safetensors").is_file()
    assert [(h["model"], h["cache_dir"]) for h in hub] == [("owner/model", str(tmp_path / "cache"))]
    assert not any("bin" in pattern for pattern in hub[0]["allow_patterns"])
    hub_folder("owner/model", download=False)
    assert hub[-1]["local_files_only"]


def test_older_weights_are_taken_where_there_are_no_others(hub: list[dict[str, Any]]) -> None:
    assert (hub_folder("owner/old") / "pytorch_model.bin").is_file()
    assert len(hub) == 2


def test_without_a_connection_the_error_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=r"tools/download_boxsam\.py"):
        hub_folder("owner/model", cache=tmp_path, download=False)


def test_names_of_the_hub_and_other_sources_are_told_apart(
    hub: list[dict[str, Any]], tmp_path: Path
) -> None:
    assert weights_source("clip_vit_b16") == "clip_vit_b16"
    assert weights_source(str(tmp_path)) == str(tmp_path)
    assert weights_source("https://host/a/b.pt") == "https://host/a/b.pt"
    assert not hub
    assert weights_source(PUBLIC_MODELS["tagger"]).endswith("openai--clip-vit-base-patch16")
