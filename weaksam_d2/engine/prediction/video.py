"""Frames of a video one after the other, in and out, by OpenCV."""

import logging
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import cv2
import numpy as np

from weaksam_d2.data import DamagedImageError

__all__ = ["VideoReader", "VideoWriter"]

logger = logging.getLogger(__name__)
_USUAL_RATE = 25.0  # frames per second, where a file does not say


class VideoReader:
    """Iterates over the frames of a video, RGB uint8 (H, W, 3), one in memory at a time.

    ``count`` is what the file says of its number of frames (None: it does not say),
    ``frames_per_second`` their rate.

    Raises:
        DamagedImageError: the file cannot be opened, or gives no frame at all.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._capture = cv2.VideoCapture(str(path))
        if not self._capture.isOpened():
            raise DamagedImageError(
                f"video '{path}' cannot be opened; expected a video that OpenCV can decode, "
                "convert it to MP4 (H.264)"
            )
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        self.frames_per_second = rate if 0 < rate < 1000 else _USUAL_RATE
        count = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT))
        self.count = count if count > 0 else None

    def __iter__(self) -> Iterator[np.ndarray]:
        read = 0
        while True:
            found, frame = self._capture.read()
            if not found:
                break
            read += 1
            yield np.ascontiguousarray(frame[:, :, ::-1])
        if not read:
            raise DamagedImageError(f"video '{self.path}' has no frame that can be decoded")
        if self.count is not None and read < self.count:
            logger.warning(
                "video %s: %d of the %d frames that it announces could be read",
                self.path, read, self.count,
            )  # fmt: skip

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._capture.release()


class VideoWriter:
    """Writes RGB uint8 frames of one size as MP4 (MPEG-4 part 2).

    Sides are made even by repeating the last row or column.
    """

    def __init__(self, path: Path, frames_per_second: float) -> None:
        self.path, self._rate = path, frames_per_second
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: np.ndarray) -> None:
        """Append a frame.

        Raises:
            OSError: OpenCV cannot write such a video here.
        """
        odd = [(0, side % 2) for side in frame.shape[:2]]
        frame = np.pad(frame, [*odd, (0, 0)], mode="edge")
        if self._writer is None:
            code = cv2.VideoWriter.fourcc(*"mp4v")
            size = (frame.shape[1], frame.shape[0])
            self._writer = cv2.VideoWriter(str(self.path), code, self._rate, size)
            if not self._writer.isOpened():
                raise OSError(
                    f"OpenCV cannot write the video {self.path}; leave out the pictures "
                    "(--no-pictures)"
                )
        self._writer.write(np.ascontiguousarray(frame[:, :, ::-1]))

    def __enter__(self) -> "VideoWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._writer is not None:
            self._writer.release()
