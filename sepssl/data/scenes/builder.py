"""The built-in scenes as a TFDS dataset."""

import dataclasses
import zlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds

from sepssl.audio.encoding import encoded
from sepssl.data.scenes.generator import generate
from sepssl.data.scenes.scene import SCENE_TYPES, Scene, SceneConfig
from sepssl.data.scenes.sources import CLASS_NAMES
from sepssl.errors import InputError

SPLITS = ("unlabelled", "train", "validation", "test")
SPLITS_WITH_SOURCES = ("validation", "test")


@dataclasses.dataclass(eq=False)
class ScenesBuilderConfig(tfds.core.BuilderConfig):
    """Sizes and contents of one build; the default sizes are our choice.

    TFDS finds a finished build by the name of its configuration alone. A configuration without
    a name gets one that is derived from all its values, so that a build made with other values is
    never loaded.

    Attributes:
        name: optional; see above.
        unlabelled, train, validation, test: clips in each split, each at least 1.
        seed: integer >= 0; see `make_scene`.
        scene: what the scenes are like.
        workers: threads that make scenes; None for one per CPU. Does not change the data.

    Raises:
        InputError: if a split has less than one clip, or the seed is negative.
    """

    name: str = ""
    unlabelled: int = 5000
    train: int = 1500
    validation: int = 600
    test: int = 1000
    seed: int = 0
    scene: SceneConfig = dataclasses.field(default_factory=SceneConfig)
    workers: int | None = None

    def __post_init__(self):
        for split in SPLITS:
            if self.size(split) < 1:
                raise InputError(f"{split}={self.size(split)}: expected at least 1 clip")
        if self.seed < 0:
            raise InputError(f"seed={self.seed}: expected an integer >= 0")
        if not self.name:
            values = [self.size(split) for split in SPLITS] + [self.seed, self.scene]
            self.name = f"scenes-{zlib.crc32(repr(values).encode()):08x}"

    def size(self, split: str) -> int:
        """Number of clips in a split."""
        return getattr(self, split)


class SepsslScenes(tfds.core.GeneratorBasedBuilder):
    """Procedural sound scenes in the splits `unlabelled`, `train`, `validation`, `test`.

    One record is one clip:

        id           string, `SPLIT-NUMBER`; the number is the index of `make_scene`
        audio        string, the mixture as a mono 16-bit FLAC file
        labels       int64 [num_sources], classes in the order of `sources` (also where those
                     are not stored); `features["labels"].feature.names` has the names
        scene        int64, the scene type
        num_sources  int64
        sources      string [num_sources], the true sources as FLAC files, in `validation` and
                     `test`; empty in the others

    `unlabelled` keeps its labels for a supervised upper bound; self-supervised training does not
    read them. 16-bit rounding puts the decoded mixture within 1.5e-5 of the scene.

    Example:

        builder = SepsslScenes(config=ScenesBuilderConfig(train=100, seed=1), data_dir="data")
        builder.download_and_prepare()
        dataset = builder.as_dataset(split="train")
    """

    name = "sepssl_scenes"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar = {"1.0.0": "42 classes, 12 scene types."}
    # Nothing is downloaded. TFDS 4.9 looks for checksums all the same, with a package
    # (importlib_resources) that it does not declare.
    url_infos = None
    BUILDER_CONFIGS: ClassVar = [
        ScenesBuilderConfig(name="default", description="8,100 clips of 5 s at 16 kHz."),
        ScenesBuilderConfig(
            name="tiny",
            description="64 clips of 2 s at 16 kHz, for trying things out.",
            unlabelled=32,
            train=16,
            validation=8,
            test=8,
            scene=SceneConfig(duration=2.0),
        ),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        # Encoded bytes in string features: a features.Audio would take three times the space.
        return self.dataset_info_from_configs(
            description="Procedural sound scenes with recording ambience (sepssl).",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Text(),
                    "audio": tfds.features.Text(),
                    "labels": tfds.features.Sequence(
                        tfds.features.ClassLabel(names=list(CLASS_NAMES))
                    ),
                    "scene": tfds.features.ClassLabel(names=list(SCENE_TYPES)),
                    "num_sources": np.int64,
                    "sources": tfds.features.Sequence(tfds.features.Text()),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        del dl_manager  # nothing to download
        return {split: self._generate_examples(split) for split in SPLITS}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict]]:
        config = self.builder_config
        scenes = generate(
            config.scene, config.seed, split, range(config.size(split)), config.workers
        )
        for index, scene in enumerate(scenes):
            key = f"{split}-{index:06d}"
            yield key, {"id": key, **scene_record(scene, split in SPLITS_WITH_SOURCES)}


def scene_record(scene: Scene, with_sources: bool) -> dict:
    """The record of a scene, without its id."""
    sources = scene.sources[: scene.num_sources] if with_sources else ()
    return {
        "audio": encoded(scene.mixture, scene.sample_rate, "PCM_16"),
        "labels": list(scene.class_names),
        "scene": scene.scene_type,
        "num_sources": scene.num_sources,
        "sources": [encoded(source, scene.sample_rate, "PCM_16") for source in sources],
    }
