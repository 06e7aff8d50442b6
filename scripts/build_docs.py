"""Check the documentation against the tree and write it as HTML; any finding is an error.

Checked: relative links and their anchors, paths of this repository, make targets, flags of tools,
config keys, and that Python examples compile and import only names that exist.

Example:
    python scripts/build_docs.py --output output/docs
"""

import argparse
import ast
import html
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import markdown
from detectron2.config import get_cfg

from weaksam_d2 import add_weaksam_config
from weaksam_d2.projects import add_all_configs

REPO = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
REPO_PATH = re.compile(
    r"(?<![\w/.<-])((?:weaksam_d2|configs|tools|tests|docs|projects|requirements|scripts|benchmarks)"
    r"/[\w./-]*[\w/])"
)
MAKE = re.compile(r"(?:^|`|\s)make ([a-z]+)\b(?=[`\s;,]|$)")
FLAG = re.compile(r"(?<!\S)`?(--[a-z][a-z-]+)")
KEY = re.compile(r"(?<![\w./-])([A-Z][A-Z0-9_]*(?:\.[A-Z][A-Z0-9_]*)+)(?![\w(/*])")
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Where the flags that tools share are added.
SHARED_PARSERS = (*("cli.py", "analysis/proposal_tables.py", "prediction/predictor_arguments.py"),)
# Flags that tools take from detectron2's own parser.
DETECTRON2_FLAGS = {
    *("--config-file", "--resume", "--eval-only", "--num-gpus"),
    *("--num-machines", "--machine-rank", "--dist-url"),
}


def pages() -> list[Path]:
    """The Markdown files of the repository that users read."""
    tops = [REPO / "docs", REPO / "projects"]
    folders = [REPO, *tops, *(folder for top in tops for folder in sorted(top.glob("*/")))]
    return sorted({path for folder in folders for path in folder.glob("*.md")})


def slug(title: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip())


def anchors(path: Path) -> set[str]:
    """Anchors of all headings of a page."""
    return {slug(title) for title in re.findall(r"^#+ (.*)$", path.read_text("utf-8"), re.M)}


def check_links(page: Path, text: str) -> Iterator[str]:
    """Links to files that do not exist, or to headings that do not."""
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists():
            yield f"link to {target}: no such file"
        elif anchor and path.suffix == ".md" and anchor not in anchors(path):
            yield f"link to {target}: no such heading"


def check_paths(text: str) -> Iterator[str]:
    """Files and folders of this repository that are named but absent."""
    for name in sorted(set(REPO_PATH.findall(text))):
        if not (REPO / name).exists():
            yield f"{name}: no such file or folder"


def check_commands(text: str) -> Iterator[str]:
    """Make targets and flags of tools that do not exist."""
    targets = set(re.findall(r"^([a-z]+):", (REPO / "Makefile").read_text("utf-8"), re.M))
    for name in sorted(set(MAKE.findall(text)) - targets):
        yield f"make {name}: no such target"
    engine = REPO / "weaksam_d2" / "engine"
    shared = "".join((engine / name).read_text("utf-8") for name in SHARED_PARSERS)
    for line in text.replace("\\\n", " ").splitlines():
        for tool in re.findall(r"(?:tools|scripts)/\w+\.py", line):
            if not (REPO / tool).is_file():
                continue  # check_paths says so
            known = shared + (REPO / tool).read_text("utf-8")
            for flag in sorted(set(FLAG.findall(line)) - DETECTRON2_FLAGS):
                if f'"{flag}"' not in known:
                    yield f"{tool} has no flag {flag}"


def check_keys(text: str, cfg: Any) -> Iterator[str]:
    """Config keys that do not exist, written in full."""
    for key in sorted(set(KEY.findall(text))):
        node = cfg
        for part in key.split("."):
            if not hasattr(node, part):
                yield f"{key}: no such config key"
                break
            node = getattr(node, part)


def check_python(text: str) -> Iterator[str]:
    """Examples that do not compile, or that import what weaksam_d2 does not have."""
    for language, code in BLOCK.findall(text):
        if language != "python":
            continue
        try:
            tree = ast.parse(code)
        except SyntaxError as error:
            yield f"Python example does not compile: {error}"
            continue
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith(
                "weaksam"
            ):
                continue
            module = importlib.import_module(node.module or "")
            for alias in node.names:
                if not hasattr(module, alias.name):
                    yield f"Python example: {node.module} has no {alias.name}"


def check(page: Path, cfg: Any) -> list[str]:
    """All findings of a page."""
    text = page.read_text("utf-8")
    findings = [*check_links(page, text), *check_keys(text, cfg), *check_python(text)]
    if page.name != "CHANGELOG.md":  # older entries may name what is gone
        findings += [*check_paths(text), *check_commands(text)]
    return [f"{page.relative_to(REPO)}: {finding}" for finding in findings]


def write_html(page: Path, output: Path) -> None:
    """One page as HTML, with links between pages kept."""
    source = re.sub(r"\]\(([^):\s]+)\.md(#[^)]*)?\)", r"](\1.html\2)", page.read_text("utf-8"))
    body = markdown.markdown(source, extensions=["tables", "fenced_code", "toc"])
    target = output / page.relative_to(REPO).with_suffix(".html")
    target.parent.mkdir(parents=True, exist_ok=True)
    title = html.escape(page.relative_to(REPO).as_posix())
    target.write_text(
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        "<style>body{max-width:60rem;margin:2rem auto;padding:0 1rem;font-family:sans-serif}"
        "pre,code{background:#f4f4f4}pre{padding:.7rem;overflow:auto}table{border-collapse:collapse}"
        f"td,th{{border:1px solid #ccc;padding:.2rem .5rem}}</style>\n{body}\n</html>\n",
        encoding="utf-8",
    )


def main(args: argparse.Namespace) -> None:
    """Check every page; write the HTML only if nothing was found."""
    cfg = get_cfg()
    add_weaksam_config(cfg)
    add_all_configs(cfg)
    findings = [finding for page in pages() for finding in check(page, cfg)]
    if findings:
        raise SystemExit("\n".join(["documentation disagrees with the tree:", *findings]))
    for page in pages():
        write_html(page, args.output)
    print(f"docs: ok, {len(pages())} pages in {args.output}")


def parse_args() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for the HTML pages")
    return parser.parse_args()


if __name__ == "__main__":
    main(parse_args())
