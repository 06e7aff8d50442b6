"""Trained detectors on images of one's own: pictures, files, videos, export."""

__all__: list[str] = []
