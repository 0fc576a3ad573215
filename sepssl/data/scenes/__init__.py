"""Procedural sound scenes: the package's built-in data. NumPy and SciPy only.

The TFDS builder is in `sepssl.data.scenes.builder`, which imports TensorFlow.
"""

from sepssl.data.scenes.generator import generate
from sepssl.data.scenes.scene import SCENE_TYPES, Scene, SceneConfig, active_rms, make_scene
from sepssl.data.scenes.sources import CLASS_NAMES, SOURCE_CLASSES, render_source

__all__ = [
    "CLASS_NAMES",
    "SCENE_TYPES",
    "SOURCE_CLASSES",
    "Scene",
    "SceneConfig",
    "active_rms",
    "generate",
    "make_scene",
    "render_source",
]
