"""Paths of the configs, from a clone or from an installed wheel."""

import difflib
from pathlib import Path

__all__ = ["get_config_file", "list_config_files"]

_PACKAGE = Path(__file__).resolve().parent


def _config_root() -> Path:
    """``weaksam_d2/configs`` of a wheel, else ``configs`` beside the package of a clone."""
    for root in (_PACKAGE / "configs", _PACKAGE.parent / "configs"):
        if root.is_dir():
            return root
    raise FileNotFoundError(
        f"no configs in {_PACKAGE} (installed wheel) or beside it (clone): "
        "the installation is incomplete, install weaksam_d2 again"
    )


def _known() -> dict[str, Path]:
    """Name and path of every config; the projects' folders lie beside ``configs``."""
    root = _config_root()
    found = {path.relative_to(root).as_posix(): path for path in root.rglob("*.yaml")}
    for path in (root.parent / "projects").glob("*/configs/**/*.yaml"):
        found[path.relative_to(root.parent).as_posix()] = path
    return found


def list_config_files() -> list[str]:
    """Names that ``get_config_file`` takes, sorted."""
    return sorted(_known())


def get_config_file(name: str) -> str:
    """Absolute path of a config, for ``cfg.merge_from_file``.

    Args:
        name: relative to ``configs/``, such as ``"pipelines/scenes_demo.yaml"``; a project's as
            ``"projects/DINO/configs/dino_R_50_voc07.yaml"``.

    Raises:
        FileNotFoundError: there is no such config; the message lists the nearest names.
    """
    known = _known()
    names = sorted(known)
    if name in known:
        return str(known[name])
    by_file = {one.rpartition("/")[2]: one for one in names}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near += [
        by_file[file]
        for file in difflib.get_close_matches(name.rpartition("/")[2], by_file, n=3, cutoff=0.7)
        if by_file[file] not in near
    ]
    hint = f"did you mean {', '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
    raise FileNotFoundError(f"no config {name!r} in {_config_root()}; {hint}")
