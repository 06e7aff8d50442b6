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


def list_config_files() -> list[str]:
    """Names that ``get_config_file`` takes, sorted."""
    root = _config_root()
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.yaml"))


def get_config_file(name: str) -> str:
    """Absolute path of a config, for ``cfg.merge_from_file``.

    Args:
        name: relative to ``configs/``, such as ``"pipelines/scenes_demo.yaml"``.

    Raises:
        FileNotFoundError: there is no such config; the message lists the nearest names.
    """
    names = list_config_files()
    if name in names:
        return str(_config_root() / name)
    by_file = {known.rpartition("/")[2]: known for known in names}
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    near += [
        by_file[file]
        for file in difflib.get_close_matches(name.rpartition("/")[2], by_file, n=3, cutoff=0.7)
        if by_file[file] not in near
    ]
    hint = f"did you mean {', '.join(map(repr, near))}?" if near else f"known: {', '.join(names)}"
    raise FileNotFoundError(f"no config {name!r} in {_config_root()}; {hint}")
