"""What can be imported from where, with what missing, and what the public names bring along."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from weaksam_d2 import model_zoo
from weaksam_d2.projects import _project_folders

REPO = Path(__file__).resolve().parents[1]
PACKAGE = REPO / "weaksam_d2"

# Registries of detectron2, and where they live: a class must be in them once a user has asked for
# add_weaksam_config. Our own registries fill up when the package that owns them is imported.
STOCK_REGISTRIES = {
    "META_ARCH_REGISTRY": "detectron2.modeling",
    "BACKBONE_REGISTRY": "detectron2.modeling",
    "PROPOSAL_GENERATOR_REGISTRY": "detectron2.modeling",
    "ROI_HEADS_REGISTRY": "detectron2.modeling",
    "ROI_BOX_HEAD_REGISTRY": "detectron2.modeling.roi_heads",
    "ROI_MASK_HEAD_REGISTRY": "detectron2.modeling.roi_heads",
    "SEM_SEG_HEADS_REGISTRY": "detectron2.modeling",
}


def run_python(code: str, *arguments: str) -> str:
    """Standard output of a fresh interpreter that starts in the repository."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *arguments],
        cwd=REPO,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def all_modules() -> list[str]:
    names = []
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(REPO).with_suffix("").parts
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return names


def registered_classes() -> list[tuple[str, str, str]]:
    """(registry, class or function, module) of every ``@<X>_REGISTRY.register()``."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(REPO).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            for decorator in getattr(node, "decorator_list", []):
                text = ast.unparse(decorator)
                if text.endswith("_REGISTRY.register()"):
                    found.append((text.removesuffix(".register()"), node.name, module))
    return found


def test_importing_the_package_loads_nothing() -> None:
    loaded = run_python("import weaksam_d2, sys; print(*sorted(sys.modules))").split()
    assert "weaksam_d2" in loaded
    assert not {"torch", "numpy", "detectron2", "weaksam_d2.config"} & set(loaded)


def test_artifacts_work_without_torch_and_detectron2(tmp_path: Path) -> None:
    code = """
import sys
for name in ("detectron2", "torch", "torchvision", "scipy", "timm", "cv2"):
    sys.modules[name] = None
from pathlib import Path
import numpy as np
from weaksam_d2 import artifacts
folder = Path(sys.argv[1]) / "store"
with artifacts.ProposalStoreWriter(folder) as writer:
    writer.add("000005", np.array([[1.0, 2.0, 30.0, 40.0]], np.float32), image_size=(50, 60))
print(artifacts.ProposalStore.open(folder)["000005"].boxes.tolist())
"""
    assert json.loads(run_python(code, str(tmp_path))) == [[1.0, 2.0, 30.0, 40.0]]


def test_without_detectron2_ops_work_and_the_rest_names_it_with_the_remedy() -> None:
    code = """
import sys
sys.modules["detectron2"] = None
import importlib
for name in sys.argv[1:]:
    importlib.import_module(name)
try:
    from weaksam_d2 import add_weaksam_config
except ImportError as error:
    print(error)
"""
    names = [name for name in all_modules() if name.startswith("weaksam_d2.ops")]
    assert len(names) >= 8
    message = run_python(code, *names)
    assert all(text in message for text in ("'detectron2'", "make setup", "INSTALL.md"))


def test_a_missing_module_of_ours_is_not_called_a_missing_detectron2(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import weaksam_d2

    monkeypatch.setattr(weaksam_d2, "_PARTS_WITH_REGISTERED_CLASSES", ("no_such_part",))
    with pytest.raises(ModuleNotFoundError, match="no_such_part"):
        _ = weaksam_d2.add_weaksam_config


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    import weaksam_d2

    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = weaksam_d2.nonsense
    for name in weaksam_d2.__all__:
        assert getattr(weaksam_d2, name) is not None


def test_classes_register_and_every_module_imports_without_compiled_operators() -> None:
    """One process for all three, since each start of torch and detectron2 takes seconds."""
    classes = registered_classes()
    stock = [(STOCK_REGISTRIES[r], r, name) for r, name, _ in classes if r in STOCK_REGISTRIES]
    ours = [entry for entry in classes if entry[0] not in STOCK_REGISTRIES]
    modules = all_modules()
    assert len(stock) >= 5
    assert len(ours) >= 8
    assert len(modules) >= 50
    code = """
import importlib, json, sys
sys.modules["detectron2._C"] = None
stock, ours, modules = json.loads(sys.argv[1])
from weaksam_d2 import add_weaksam_config
lacking = [
    f"{registry}: {name}" for owner, registry, name in stock
    if name not in getattr(importlib.import_module(owner), registry)
]
for registry, name, module in ours:
    importlib.import_module(".".join(module.split(".")[:2]))
    table = getattr(sys.modules[module], registry) if module in sys.modules else ()
    if name not in table:
        lacking.append(f"{registry}: {name} of {module}")
for name in modules:
    importlib.import_module(name)
unwanted = {"detectron2.model_zoo", "tools", "projects"} & set(sys.modules)
print(json.dumps([lacking, sorted(unwanted)]))
"""
    output = run_python(code, json.dumps([stock, ours, modules]))
    assert json.loads(output.splitlines()[-1]) == [[], []]


def test_model_zoo_finds_every_config_of_the_tree() -> None:
    names = model_zoo.list_config_files()
    assert len(names) >= 5 and any(name.startswith("projects/") for name in names)
    for name in names:
        root = REPO if name.startswith("projects/") else REPO / "configs"
        assert Path(model_zoo.get_config_file(name)) == root / name


def test_projects_register_without_transformers_and_say_what_a_model_needs() -> None:
    code = """
import sys
sys.modules["transformers"] = None
from detectron2.config import get_cfg
from detectron2.modeling import META_ARCH_REGISTRY
from weaksam_d2 import add_weaksam_config, model_zoo
from weaksam_d2.projects import add_all_configs
for project in ("DINO", "Mask2Former"):
    cfg = get_cfg()
    add_weaksam_config(cfg)
    add_all_configs(cfg)
    name = f"projects/{project}/configs/quick_schedules/{project.lower()}_lite0.yaml"
    cfg.merge_from_file(model_zoo.get_config_file(name))
    cfg.MODEL.TIMM.WEIGHTS = ""
    try:
        META_ARCH_REGISTRY.get(project)(cfg)
    except ImportError as error:
        print(error)
"""
    lines = run_python(code).splitlines()
    assert len(lines) == 2 and all("pip install 'transformers>=5'" in line for line in lines)


def test_model_zoo_prefers_the_configs_inside_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for root in (tmp_path / "configs", tmp_path / "package" / "configs" / "a"):
        root.mkdir(parents=True)
        (root / "one.yaml").touch()
    monkeypatch.setattr(model_zoo, "_PACKAGE", tmp_path / "package")
    assert model_zoo.list_config_files() == ["a/one.yaml"]
    monkeypatch.setattr(model_zoo, "_PACKAGE", tmp_path / "other")
    assert model_zoo.list_config_files() == ["one.yaml"]
    monkeypatch.setattr(model_zoo, "_PACKAGE", tmp_path / "other" / "package")
    with pytest.raises(FileNotFoundError, match="install weaksam_d2 again"):
        model_zoo.list_config_files()


def test_model_zoo_proposes_near_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "configs" / "PascalVOC-Detection"
    folder.mkdir(parents=True)
    for name in ("mist_V_16_1x", "oicr_V_16_1x"):
        (folder / f"{name}.yaml").touch()
    monkeypatch.setattr(model_zoo, "_PACKAGE", tmp_path / "package")
    with pytest.raises(FileNotFoundError, match="did you mean 'PascalVOC-Detection/mist_V_16_1x"):
        model_zoo.get_config_file("mist_V16_1x.yaml")
    with pytest.raises(FileNotFoundError, match="known: PascalVOC-Detection/mist"):
        model_zoo.get_config_file("zzz")
    with pytest.raises(FileNotFoundError):
        model_zoo.get_config_file("../configs/PascalVOC-Detection/mist_V_16_1x.yaml")


def test_projects_count_only_below_our_marker(tmp_path: Path) -> None:
    (tmp_path / "Name").mkdir()
    (tmp_path / "README.md").touch()
    assert _project_folders(tmp_path) == []
    (tmp_path / ".weaksam_d2").touch()
    assert _project_folders(tmp_path) == [str(tmp_path / "Name")]
    assert (REPO / "projects" / ".weaksam_d2").is_file()


def test_a_project_adds_its_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from detectron2.config import get_cfg

    from weaksam_d2 import add_weaksam_config, projects

    package = tmp_path / "Name" / "some_project"
    package.mkdir(parents=True)
    init = package / "__init__.py"
    init.write_text("def add_some_project_config(cfg):\n    cfg.SOME_KEY = 7\n")
    (tmp_path / ".weaksam_d2").touch()
    monkeypatch.setattr(projects, "__path__", [*projects.__path__, *_project_folders(tmp_path)])
    cfg = get_cfg()
    add_weaksam_config(cfg)
    projects.add_all_configs(cfg)
    assert cfg.SOME_KEY == 7 and "DINO" in cfg.MODEL
    sys.modules.pop("weaksam_d2.projects.some_project")


def test_the_version_is_the_one_of_the_changelog() -> None:
    import weaksam_d2

    changelog = (REPO / "CHANGELOG.md").read_text(encoding="utf-8")
    citation = (REPO / "CITATION.cff").read_text(encoding="utf-8")
    assert f"## {weaksam_d2.__version__}" in changelog
    assert f"version: {weaksam_d2.__version__}" in citation
