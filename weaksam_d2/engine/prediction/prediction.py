"""Detections of a user's images and videos: one after the other, resumable, constant memory."""

import csv
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
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
    CategoryMap,
    atomic_write,
    read_json,
    sha256_file,
    write_json,
)
from weaksam_d2.artifacts.io import dump_json
from weaksam_d2.data import DamagedImageError, read_image
from weaksam_d2.engine.prediction.video import VideoReader, VideoWriter
from weaksam_d2.evaluation import Detections, detection_entries
from weaksam_d2.ops import encode_rle
from weaksam_d2.visualization import draw_detections

__all__ = ["PredictionFolder", "Predictor", "Source", "find_sources", "predict_all"]

logger = logging.getLogger(__name__)
IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".ppm")
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg")
_COLUMNS = ("image_id", "file_name", "class", "category_id", "score", "x1", "y1", "x2", "y2")
_SIDE = 640  # pixels; smaller pictures are enlarged to it so that labels can be read


class Predictor(Protocol):
    """What is needed of a :class:`weaksam_d2.engine.prediction.predictor.WeakSAMPredictor`."""

    categories: CategoryMap

    def __call__(self, image: np.ndarray) -> Mapping[str, Any]:
        """``instances`` of an RGB uint8 image, ordered by falling score."""


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
        ValueError: a file of another kind, or two files of one name.
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
    return list(found.values())


class PredictionFolder:
    """A folder that fills with predictions and says after a kill which are there already.

    ``rows/<name>.jsonl`` holds what was found in one image or video, ``pictures/`` the drawn
    ones; :meth:`finish` joins them to ``detections.json`` (COCO results), ``detections.csv`` and
    ``images.json`` (ids, file names, sizes; categories). An input whose file has changed is done
    again.
    """

    def __init__(
        self,
        root: Path,
        settings: Mapping[str, Any],
        *,
        pictures: bool = True,
        score_thresh: float = 0.5,
    ) -> None:
        """Open or begin a folder.

        Args:
            root: the folder.
            settings: what decides the predictions, as JSON values.
            pictures: draw them.
            score_thresh: of the boxes in pictures; the files hold all.

        Raises:
            ArtifactMismatchError: the folder holds predictions of other settings.
        """
        self.root, self._pictures, self._score_thresh = root, pictures, score_thresh
        path = root / "settings.json"
        drawn = {"pictures": pictures, "score_thresh": score_thresh if pictures else None}
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
                image = read_image(source.path)
                rows = self._predict_image(source.name, source.path.name, image, predictor, file)
                if self._pictures:
                    self._draw(source, image, rows, predictor.categories)
        return True

    def finish(self, sources: Sequence[Source], categories: CategoryMap) -> dict[str, int]:
        """Join the results of the sources that have one; returns their counts.

        Memory does not grow with the number of detections.
        """
        names = {row["id"]: row["name"] for row in categories.categories()}
        counts = {"images": 0, "detections": 0}
        with ExitStack() as stack:
            paths = {
                name: stack.enter_context(atomic_write(self.root / name))
                for name in ("detections.json", "detections.csv", "images.json")
            }
            results, table, images = (
                stack.enter_context(open(path, "w", encoding="utf-8", newline=""))
                for path in paths.values()
            )
            columns = csv.writer(table)
            columns.writerow(_COLUMNS)
            results.write("[")
            images.write('{"categories": ' + dump_json(categories.categories()) + ',\n"images": [')
            for image, rows in self._read(sources):
                images.write((",\n" if counts["images"] else "\n") + dump_json(image))
                counts["images"] += 1
                for row in rows:
                    results.write((",\n" if counts["detections"] else "\n") + dump_json(row))
                    counts["detections"] += 1
                    columns.writerow(_csv_row(image, row, names))
            results.write("\n]\n" if counts["detections"] else "]\n")
            images.write("\n]}\n")
        return counts

    def _rows(self, source: Source) -> Path:
        return self.root / "rows" / f"{source.name}.jsonl"

    def _picture(self, source: Source) -> Path:
        suffix = ".mp4" if source.is_video else ".jpg"
        return self.root / "pictures" / f"{source.name}{suffix}"

    def _is_done(self, source: Source, digest: str) -> bool:
        if not self._rows(source).exists():
            return False
        with open(self._rows(source), encoding="utf-8") as file:
            same = bool(json.loads(file.readline())["sha256"] == digest)
        return same and (not self._pictures or self._picture(source).exists())

    def _predict_image(
        self, image_id: str, file_name: str, image: np.ndarray, predictor: Predictor, file: IO[str]
    ) -> list[dict[str, Any]]:
        instances = predictor(image)["instances"]
        rows = detection_entries(image_id, _detections(instances), predictor.categories)
        size = {"height": int(image.shape[0]), "width": int(image.shape[1])}
        entry = {"image": {"id": image_id, "file_name": file_name, **size}, "detections": rows}
        file.write(dump_json(entry) + "\n")
        return rows

    def _draw(
        self,
        source: Source,
        image: np.ndarray,
        rows: Sequence[Mapping[str, Any]],
        categories: CategoryMap,
    ) -> None:
        picture = self._drawn(image, rows, categories, max(_SIDE, *image.shape[:2]))
        with atomic_write(self._picture(source)) as path:
            Image.fromarray(picture).save(path, quality=90)

    def _drawn(
        self,
        image: np.ndarray,
        rows: Sequence[Mapping[str, Any]],
        categories: CategoryMap,
        side: int,
    ) -> np.ndarray:
        return draw_detections(
            image,
            rows,
            categories=categories.categories(),
            score_thresh=self._score_thresh,
            side=side,
        )

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
                rows = self._predict_image(image_id, source.path.name, frame, predictor, file)
                if writer is not None:
                    side = max(frame.shape[:2])
                    writer.add(self._drawn(frame, rows, predictor.categories, side))

    def _read(
        self, sources: Sequence[Source]
    ) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
        for source in sources:
            path = self._rows(source)
            if not path.exists():
                continue
            with open(path, encoding="utf-8") as file:
                file.readline()
                for line in file:
                    try:
                        entry = json.loads(line)
                    except ValueError as error:
                        raise ArtifactError(f"{path} is damaged ({error}); remove it") from error
                    yield entry["image"], entry["detections"]


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


def _detections(instances: Any) -> Detections:
    masks = None
    if instances.has("pred_masks"):
        size = [int(side) for side in instances.pred_masks.shape[1:]]
        codes = encode_rle(instances.pred_masks)
        masks = tuple({"size": size, "counts": code.decode("ascii")} for code in codes)
    return Detections(
        boxes=instances.pred_boxes.tensor.numpy(),
        scores=instances.scores.numpy(),
        classes=instances.pred_classes.numpy(),
        masks=masks,
    )


def _csv_row(
    image: Mapping[str, Any], row: Mapping[str, Any], names: Mapping[int, str]
) -> list[Any]:
    x, y, width, height = row["bbox"]
    name = names[row["category_id"]]
    label = [image["id"], image["file_name"], name, row["category_id"], row["score"]]
    return [*label, x, y, x + width, y + height]
