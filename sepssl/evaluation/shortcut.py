"""Does an encoder respond to the sound sources, or to the ambience of the recording?"""

from collections.abc import Callable

import numpy as np

from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.scene import make_scene
from sepssl.errors import InputError


def shortcut_clips(config: SceneConfig, seed: int, count: int) -> np.ndarray:
    """Scenes, each followed by two others that share its sources or its ambience.

    Two patches of one recording share its sources and its ambience, and an encoder may learn to
    associate them by either. Here every scene is followed by its own sources with the ambience of
    the next scene, and by the sources of the next scene with its own ambience, both at the
    ambience's original level relative to the sources. Sources keep the spectral colour of their
    microphone, so an encoder that relies on colour prefers the same sources too. Neighbouring
    scenes with a class in common are left out.

    Args:
        config: of the scenes; with ambience.
        seed: of the scenes.
        count: number of scenes, at least 2.

    Returns:
        [scenes, 3, samples]: scene, same sources, same ambience.

    Raises:
        InputError: if the scenes have no ambience, or all neighbours have classes in common.
    """
    if config.ambience_range_db is None:
        raise InputError("ambience_range_db is None; expected scenes with ambience")
    scenes = [make_scene(config, seed, "shortcut", index) for index in range(count)]
    clips = [
        [_mixed(scene, scene), _mixed(scene, after), _mixed(after, scene)]
        for scene, after in zip(scenes, scenes[1:] + scenes[:1], strict=True)
        if not np.any(scene.labels & after.labels)
    ]
    if not clips:
        raise InputError(f"{count} scenes: all neighbours share a class; expected more scenes")
    return np.array(clips, np.float32)


def sources_preferred(embed: Callable[[np.ndarray], np.ndarray], clips: np.ndarray) -> float:
    """How often the same sources in another ambience are closer than others in the same one.

    Args:
        embed: waveform [samples] -> [dim].
        clips: from `shortcut_clips`.

    Returns:
        The share of scenes whose embedding has the larger cosine with that of the same sources,
        after subtracting the mean embedding: from 0 (only the ambience counts) to 1 (only the
        sources do).

    Reference: our choice.
    """
    embeddings = np.array([[embed(clip) for clip in three] for three in clips], np.float64)
    embeddings -= embeddings[:, 0].mean(axis=0)
    embeddings /= np.maximum(np.linalg.norm(embeddings, axis=-1, keepdims=True), 1e-12)
    scene, same_sources, same_ambience = np.moveaxis(embeddings, 1, 0)
    nearer = np.sum(scene * same_sources, axis=-1) > np.sum(scene * same_ambience, axis=-1)
    return float(np.mean(nearer))


def _mixed(sources, ambience):
    """The sources of one scene in the ambience of another, at the ambience's relative level."""
    sound = sources.sources.sum(axis=0)
    level = 10 ** (ambience.ambience_db / 20) * np.linalg.norm(sound)
    mixture = sound + ambience.ambience * (level / np.linalg.norm(ambience.ambience))
    return mixture / max(1.0, np.max(np.abs(mixture)))
