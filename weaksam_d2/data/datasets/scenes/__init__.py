"""Rendered scenes: a data set without downloads, on which parts dominate and boxes are exact."""

from weaksam_d2.data.datasets.scenes.compose import Scene, SceneObject, render_scene
from weaksam_d2.data.datasets.scenes.objects import SCENE_CLASSES
from weaksam_d2.data.datasets.scenes.register import register_scenes
from weaksam_d2.data.datasets.scenes.write import SCENE_SETS, SceneSet, scenes, write_scenes

__all__ = [
    "SCENE_CLASSES",
    "SCENE_SETS",
    "Scene",
    "SceneObject",
    "SceneSet",
    "register_scenes",
    "render_scene",
    "scenes",
    "write_scenes",
]
