"""Packages of the wheel: ``weaksam_d2``, the configs beside it, and the projects."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


class BuildWithConfigs(build_py):
    """Also copy ``configs/`` and ``projects/`` into the package, as the wheel has no repository.

    An editable install needs no copy: there the package finds both beside itself.
    """

    def run(self) -> None:
        """Build the modules, then copy; old copies go first."""
        super().run()
        if self.editable_mode:
            return
        package = Path(self.build_lib) / "weaksam_d2"
        shutil.rmtree(package / "configs", ignore_errors=True)
        if (ROOT / "configs").is_dir():
            shutil.copytree(ROOT / "configs", package / "configs")
        for init in sorted((ROOT / "projects").glob("*/*/__init__.py")):
            shutil.copytree(
                init.parent,
                package / "projects" / init.parent.name,
                ignore=shutil.ignore_patterns("__pycache__"),
                dirs_exist_ok=True,
            )
        for configs in sorted((ROOT / "projects").glob("*/configs")):
            target = package / "projects" / configs.parent.name / "configs"
            shutil.copytree(configs, target, dirs_exist_ok=True)


setup(
    packages=find_packages(include=["weaksam_d2", "weaksam_d2.*"]),
    cmdclass={"build_py": BuildWithConfigs},
)
