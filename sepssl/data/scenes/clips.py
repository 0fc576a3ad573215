"""The built-in scenes as a source of clips."""

import functools

import numpy as np

from sepssl.data.clips import Clips, Skipped, cut
from sepssl.data.scenes.scene import Scene, SceneConfig, make_scene, scene_labels
from sepssl.data.scenes.sources import CLASS_NAMES


class SceneClips(Clips):
    """`count` scenes of one split.

    Args:
        config: what the scenes are like.
        seed: integer >= 0.
        split: name of the split.
        count: number of clips.
    """

    has_sources = True

    def __init__(self, config: SceneConfig, seed: int, split: str, count: int):
        self.config = config
        self.seed = seed
        self.split = split
        self.names = [f"scenes/{split}/{seed}/{index:06d}" for index in range(count)]
        self.class_names = list(CLASS_NAMES)
        self.skipped: list[Skipped] = []
        self.sample_rate = config.sample_rate

    @property
    def origin(self) -> str:
        return repr(self.config)

    def scene(self, index: int) -> Scene:
        """The clip with its true sources."""
        return make_scene(self.config, self.seed, self.split, index)

    def num_samples(self, index: int) -> int:
        return self.config.num_samples

    def read(self, index: int, start: int = 0, length: int | None = None) -> np.ndarray:
        return cut(self.scene(index).mixture, start, length, self.names[index])

    def read_with_sources(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        scene = self.scene(index)
        return scene.mixture, scene.sources[: scene.num_sources]

    @functools.cached_property
    def labels(self) -> np.ndarray:  # type: ignore[override]  # mypy takes it for read-only
        """int8 [clips, classes]."""
        return np.stack(
            [scene_labels(self.config, self.seed, self.split, i) for i in range(len(self))]
        )
