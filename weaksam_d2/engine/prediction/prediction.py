"""Predictions on a user's images and videos: one after the other, resumable, constant memory."""

import json
import logging
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from PIL import Image
from tqdm import tqdm

from weaksam_d2.artifacts import (
    ArtifactError,
    ArtifactMismatchError,
    atomic_write,
    read_json,
    sha256_file,
    write_json,
)
from weaksam_d2.artifacts.io import dump_json
from weaksam_d2.data import DamagedImageError, read_image
from weaksam_d2.engine.prediction.kind import Entry, PredictionKind
from weaksam_d2.engine.prediction.video import VideoReader, VideoWriter

__all__ = ["PredictionFolder", "Predictor", "Source", "find_sources", "predict_all"]

logger = logging.getLogger(__name__)
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_SIDE = 640  # pixels; smaller pictures are enlarged to it so that labels can be read


class Predictor(Protocol):
    """What is needed of an :class:`weaksam_d2.engine.prediction.image_predictor.ImagePredictor`."""

    def __call__(self, image: np.ndarray) -> Mapping[str, Any]:
        """What its kind of prediction takes of an RGB uint8 image."""


@dataclass(frozen=True)
class Source:
    """An image or a video: its name (id in the results), its file, and which of both it is."""

    name: str
    path: Path
    is_video: bool


def find_sources(paths: Sequence[Path]) -> list[Source]:
    """Images and videos of files and folders, in the order given, folders sorted by name.

    The name of a file is its stem, in a folder its path there without the suffix. Files of other
    kinds are passed over in folders.

    Raises:
        FileNotFoundError: a path that does not exist, or a folder without images and videos.
        ValueError: a file of another kind, two files of one name, or an image that is called as
            a frame of a video.
    """
    found: dict[str, Source] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(f"input {path} does not exist")
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        known = [file for file in files if file.suffix.lower() in (*IMAGES, *VIDEOS)]
        if not known:
            listed = ", ".join((*IMAGES, *VIDEOS))
            kind = "holds no image or video" if path.is_dir() else "is no image or video"
            error = FileNotFoundError if path.is_dir() else ValueError
            raise error(f"input {path} {kind}; expected one of {listed}")
        for file in known:
            name = (file.relative_to(path) if path.is_dir() else Path(file.name)).with_suffix("")
            source = Source(name.as_posix(), file, file.suffix.lower() in VIDEOS)
            if source.name in found and found[source.name].path != file:
                raise ValueError(
                    f"{found[source.name].path} and {file} would both be called '{source.name}'; "
                    "rename one, or predict them into two folders"
                )
            found[source.name] = source
    _refuse_frames(found)
    return list(found.values())


def _refuse_frames(sources: Mapping[str, Source]) -> None:
    """An image that is called as a frame of a video would take its place in the results."""
    for name, source in sources.items():
        folder, _, number = name.rpartition("/")
        video = sources.get(folder)
        if video is not None and video.is_video and re.fullmatch(r"\d{6,}", number):
            raise ValueError(
                f"{source.path} is called '{name}' as a frame of {video.path} is; leave out one "
                "of both, or predict them into two folders"
            )


class PredictionFolder:
    """A folder that fills with predictions and says after a kill which are there already.

    ``rows/<name>.jsonl`` holds what was found in one image or video, ``pictures/`` the drawn
    ones; :meth:`finish` joins them to ``images.json`` (ids, file names, sizes; categories) and
    to the files of the kind of prediction. An input whose file has changed is done again.
    """

    def __init__(
        self,
        root: Path,
        settings: Mapping[str, Any],
        kind: PredictionKind,
        *,
        pictures: bool = True,
    ) -> None:
        """Open or begin a folder.

        Args:
            root: the folder.
            settings: what decides the predictions, as JSON values.
            kind: what one prediction is, how it is stored and drawn.
            pictures: draw them.

        Raises:
            ArtifactMismatchError: the folder holds predictions of other settings.
        """
        self.root, self.kind, self._pictures = root, kind, pictures
        path = root / "settings.json"
        drawn = {"pictures": pictures, **kind.settings(pictures=pictures)}
        wanted = json.loads(json.dumps({**settings, **drawn}))
        if path.exists():
            before = read_json(path)
            changed = sorted(k for k in {*before, *wanted} if before.get(k) != wanted.get(k))
            if changed:
                raise ArtifactMismatchError(
                    f"{root} holds predictions of other settings ({', '.join(changed)} differ); "
                    "choose another --output, or remove it"
                )
        elif root.exists() and any(root.iterdir()):
            raise ArtifactMismatchError(
                f"{root} exists and holds no predictions; choose another --output"
            )
        write_json(path, wanted)

    def predict(self, source: Source, predictor: Predictor) -> bool:
        """Predict one source unless its result is there already; returns whether it was not.

        Raises:
            DamagedImageError: the file cannot be decoded; nothing is written then.
        """
        digest = sha256_file(source.path)
        if self._is_done(source, digest):
            return False
        with atomic_write(self._rows(source)) as path, open(path, "w", encoding="utf-8") as file:
            file.write(dump_json({"source": str(source.path.name), "sha256": digest}) + "\n")
            if source.is_video:
                self._predict_video(source, predictor, file)
            else:
                self._predict_picture(source, predictor, file)
        return True

    def finish(self, sources: Sequence[Source]) -> dict[str, int]:
        """Join the results of the sources that have one.

        Returns the number of ``images``, and of what the kind counts.
        """
        counts = {"images": 0, self.kind.counted: 0}
        with (
            atomic_write(self.root / "images.json") as path,
            open(path, "w", encoding="utf-8", newline="") as images,
        ):
            head = dump_json(self.kind.categories)
            images.write('{"categories": ' + head + ',\n"images": [')

            def listed() -> Iterator[tuple[dict[str, Any], Entry]]:
                for image, entry in self._read(sources):
                    images.write((",\n" if counts["images"] else "\n") + dump_json(image))
                    counts["images"] += 1
                    yield image, entry

            counts[self.kind.counted] = self.kind.join(self.root, listed())
            images.write("\n]}\n")
        return counts

    def _rows(self, source: Source) -> Path:
        return self.root / "rows" / f"{source.name}.jsonl"

    def _picture(self, source: Source) -> Path:
        suffix = ".mp4" if source.is_video else ".jpg"
        return self.root / "pictures" / f"{source.name}{suffix}"

    def _is_done(self, source: Source, digest: str) -> bool:
        path = self._rows(source)
        if not path.exists():
            return False
        with open(path, encoding="utf-8") as file:
            same = bool(json.loads(file.readline())["sha256"] == digest)
            same = same and self.kind.is_stored(self.root, _entries(path, file))
        return same and (not self._pictures or self._picture(source).exists())

    def _predict_image(
        self, image_id: str, file_name: str, image: np.ndarray, predictor: Predictor, file: IO[str]
    ) -> Callable[[int], np.ndarray]:
        """Store what is found; returns how to draw it, for a length of the longer side."""
        found = predictor(image)
        entry = self.kind.store(self.root, image_id, found)
        size = {"height": int(image.shape[0]), "width": int(image.shape[1])}
        row = {"image": {"id": image_id, "file_name": file_name, **size}, **entry}
        file.write(dump_json(row) + "\n")
        return lambda side: self.kind.draw(image, found, entry, side=side)

    def _predict_picture(self, source: Source, predictor: Predictor, file: IO[str]) -> None:
        image = read_image(source.path)
        draw = self._predict_image(source.name, source.path.name, image, predictor, file)
        if self._pictures:
            picture = draw(max(_SIDE, *image.shape[:2]))
            with atomic_write(self._picture(source)) as path:
                Image.fromarray(picture).save(path, quality=90)

    def _predict_video(self, source: Source, predictor: Predictor, file: IO[str]) -> None:
        """Frame by frame; frame n of ``name`` is the image ``name/00000n``."""
        with ExitStack() as stack:
            video = stack.enter_context(VideoReader(source.path))
            writer: VideoWriter | None = None
            if self._pictures:
                target = stack.enter_context(atomic_write(self._picture(source)))
                writer = stack.enter_context(VideoWriter(target, video.frames_per_second))
            bar = tqdm(video, total=video.count, desc=source.name, unit="frame", leave=False)
            for number, frame in enumerate(bar):
                image_id = f"{source.name}/{number:06d}"
                draw = self._predict_image(image_id, source.path.name, frame, predictor, file)
                if writer is not None:
                    writer.add(draw(max(frame.shape[:2])))

    def _read(self, sources: Sequence[Source]) -> Iterator[tuple[dict[str, Any], Entry]]:
        for source in sources:
            path = self._rows(source)
            if path.exists():
                with open(path, encoding="utf-8") as file:
                    file.readline()
                    yield from ((entry["image"], entry) for entry in _entries(path, file))


def _entries(path: Path, lines: Iterable[str]) -> Iterator[dict[str, Any]]:
    """The rest of a file of rows; ArtifactError: a damaged line."""
    for line in lines:
        try:
            yield json.loads(line)
        except ValueError as error:
            raise ArtifactError(f"{path} is damaged ({error}); remove it") from error


def predict_all(
    sources: Sequence[Source], folder: PredictionFolder, predictor: Predictor
) -> dict[str, str]:
    """Predict all sources; one that cannot be read does not stop the others.

    Returns file → reason of those that failed, which ``failures.json`` holds as well.
    """
    failures: dict[str, str] = {}
    for source in tqdm(sources, unit="file"):
        try:
            folder.predict(source, predictor)
        except DamagedImageError as error:
            logger.warning("%s", error)
            failures[str(source.path)] = str(error)
    write_json(folder.root / "failures.json", failures)
    return failures
