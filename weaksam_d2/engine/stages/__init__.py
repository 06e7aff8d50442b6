"""Stages that make artifacts in parts: resumable, shared by processes, with manifests."""

__all__: list[str] = []
