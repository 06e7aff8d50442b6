"""Makes ``projects/<Name>/<package>`` importable as ``weaksam_d2.projects.<package>``.

In a clone the folders of ``projects/`` join this package's search path; a wheel holds their
packages right here. Another distribution may own a folder of that name beside an installed
package, so the folder counts only if it holds our marker file.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import Any

__all__ = ["add_all_configs"]

_MARKER = ".weaksam_d2"


def _project_folders(root: Path) -> list[str]:
    """Folders below ``root`` that may hold a project's package; none without the marker."""
    if not (root / _MARKER).is_file():
        return []
    return [str(folder) for folder in sorted(root.iterdir()) if folder.is_dir()]


__path__.extend(_project_folders(Path(__file__).resolve().parents[2] / "projects"))


def add_all_configs(cfg: Any) -> None:
    """Import every project and add its config keys, in place.

    Args:
        cfg: a detectron2 config that has the keys of ``add_weaksam_config``.

    Raises:
        AttributeError: a project ``name`` has no function ``add_<name>_config``.
    """
    for module in pkgutil.iter_modules(__path__):
        if module.ispkg:
            project = importlib.import_module(f"{__name__}.{module.name}")
            getattr(project, f"add_{module.name}_config")(cfg)
