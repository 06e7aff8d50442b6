"""Reading image tags from CSV or JSON."""

import csv
import difflib
import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weaksam_d2.data.datasets.registration import require_split

__all__ = ["TaggedImage", "nearest_class_hint", "read_tags"]

_SIGNS = ("-", "?")  # of absent and unknown classes in CSV
_JSON_KEYS = ("tags", "negative", "unknown")
_HEADERS = ("image", "file", "file_name", "filename", "path")


@dataclass(frozen=True)
class TaggedImage:
    """One line of a tags file: image file (relative to the folder), its tags, where it stands.

    ``negative`` classes are surely absent, of ``unknown`` ones nobody knows.
    """

    file_name: str
    tags: tuple[str, ...]
    where: str
    negative: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()


def read_tags(path: str | Path) -> list[TaggedImage]:
    """Read a tags file; each image once, in the order of the file; no tags is legal.

    CSV: ``image,tags`` (this header or none). Tags are separated by ``;`` or ``,`` in one quoted
    field, or stand in further columns; ``-dog`` says that a dog is surely absent, ``?dog`` that
    nobody knows. JSON: ``{"a.jpg": ["cat", …], …}``, where the list may be an object ``{"tags":
    ["cat"], "negative": ["dog"], "unknown": ["cow"]}``; no sign has a meaning there.

    Raises:
        FileNotFoundError: no such file. ValueError: a malformed file, an image listed twice, or a
        class that is said to be two of present, absent and unknown; the message names file and
        line.
    """
    path = Path(path)
    require_split(path, "tags file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"tags file '{path}' is not UTF-8: {error}; save it as UTF-8") from error
    rows = _read_json(path, text) if path.suffix.lower() == ".json" else _read_csv(path, text)
    first: dict[str, str] = {}
    for row in rows:
        if row.file_name in first:
            raise ValueError(
                f"{row.where}: image '{row.file_name}' is listed twice (first at "
                f"{first[row.file_name]}); put its tags in one entry"
            )
        first[row.file_name] = row.where
    if not rows:
        raise ValueError(f"tags file '{path}' lists no images")
    return rows


def nearest_class_hint(tag: str, classes: Sequence[str]) -> str:
    """Return " (did you mean 'cat'?)" for the class most like a misspelled tag, or ""."""
    lowered = {name.lower(): name for name in classes}
    near = difflib.get_close_matches(tag.lower(), list(lowered), n=1, cutoff=0.5)
    return f" (did you mean '{lowered[near[0]]}'?)" if near else ""


def _read_csv(path: Path, text: str) -> list[TaggedImage]:
    rows: list[TaggedImage] = []
    # skipinitialspace: `a.jpg, "cat, dog"` is still one quoted field.
    reader = csv.reader(text.splitlines(), skipinitialspace=True)
    for fields in reader:
        if not any(field.strip() for field in fields):
            continue
        if not rows and _is_header(fields):
            continue
        where = f"{path}:{reader.line_num}"
        if not fields[0].strip():
            raise ValueError(f"{where}: the image name is empty; expected 'image,tags'")
        signed = _split_tags(fields[1:])
        sets = {sign: _clean(t[1:] for t in signed if t[0] == sign) for sign in _SIGNS}
        plain = _clean(tag for tag in signed if tag[0] not in _SIGNS)
        rows.append(_tagged(fields[0].strip(), where, plain, sets["-"], sets["?"]))
    return rows


def _tagged(
    name: str, where: str, tags: Sequence[str], negative: Sequence[str], unknown: Sequence[str]
) -> TaggedImage:
    counts = Counter((*tags, *negative, *unknown))
    twice = [tag for tag, count in counts.items() if count > 1]
    if twice:
        raise ValueError(
            f"{where}: '{twice[0]}' is in two of the present, absent and unknown classes of image "
            f"'{name}'; keep one"
        )
    return TaggedImage(name, tuple(tags), where, tuple(negative), tuple(unknown))


def _is_header(fields: Sequence[str]) -> bool:
    return fields[0].strip().lower() in _HEADERS


def _split_tags(fields: Sequence[str]) -> tuple[str, ...]:
    return _clean(tag for field in fields for tag in field.replace(";", ",").split(","))


def _clean(tags: Iterable[str]) -> tuple[str, ...]:
    """Without spaces around them, empty ones and repetitions."""
    return tuple(dict.fromkeys(tag.strip() for tag in tags if tag.strip()))


def _read_json(path: Path, text: str) -> list[TaggedImage]:
    def no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated = [key for key, n in Counter(key for key, _ in pairs).items() if n > 1]
        if repeated:
            raise ValueError(f"tags file '{path}': {repeated[:3]} are listed twice")
        return dict(pairs)

    try:
        data = json.loads(text, object_pairs_hook=no_duplicates)
    except json.JSONDecodeError as error:
        raise ValueError(f"tags file '{path}' is not valid JSON: {error}") from error
    if not isinstance(data, Mapping):
        raise ValueError(f'tags file \'{path}\' must hold {{"image": ["tag", …]}}')
    rows = []
    for file_name, tags in data.items():
        where = f"{path}: '{file_name}'"
        sets = tags if isinstance(tags, Mapping) else {"tags": tags}
        lists = [sets.get(key, []) for key in _JSON_KEYS]
        known = set(sets) <= set(_JSON_KEYS)
        if not known or not all(_is_list_of_names(given) for given in lists):
            raise ValueError(
                f"{where}: expected a list of tags, or an object of such lists with the keys "
                f"{list(_JSON_KEYS)}, got {tags!r}"
            )
        rows.append(_tagged(file_name, where, *(_clean(given) for given in lists)))
    return rows


def _is_list_of_names(given: Any) -> bool:
    return isinstance(given, list) and all(isinstance(tag, str) for tag in given)
