"""Training of a separator, from a configuration."""

import functools
import os
import pathlib

import keras
import numpy as np
from ml_collections import ConfigDict

from sepssl.data.pipeline import require_batch
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.segments import recording_name
from sepssl.errors import InputError
from sepssl.separation import TDCN, LearnedBasis, MixITLearner, Separator, STFTBasis, mixit_loss
from sepssl.separation.metrics import momi, separation_scores
from sepssl.training.batches import RecordingBatches
from sepssl.training.checkpoints import RunFolder
from sepssl.training.clips import (
    scene_config,
    settings_of_run,
    store_mixtures,
    training_clips,
)
from sepssl.training.loop import COMMON_MINIMUMS, loop_settings, require_at_least, train
from sepssl.training.strategy import make_strategy, require_pairs_on_every_replica

MINIMUMS = COMMON_MINIMUMS | {
    "data.num_validation": 0,
    "separator.num_coefficients": 1,
    "train.crop_seconds": 0.1,
}


def make_separator(config: ConfigDict, sample_rate: int) -> Separator:
    """The network that `config.separator` describes.

    Raises:
        InputError: if a value is not one that the network can have.
    """
    bases = {"learned": LearnedBasis, "stft": STFTBasis}
    if config.basis not in bases:
        raise InputError(f"separator.basis={config.basis!r}: expected one of {', '.join(bases)}")
    sizes = {"frame_length": config.frame_length, "hop": config.hop}
    if config.basis == "learned":
        sizes["num_coefficients"] = config.num_coefficients
    try:
        return Separator(
            num_sources=config.num_sources,
            basis=bases[config.basis](**sizes),
            tdcn=TDCN(
                config.bottleneck_channels,
                config.conv_channels,
                config.dilations_per_repeat,
                config.repeats,
            ),
            mixture_consistency=config.mixture_consistency,
            normalize_input=config.normalize_input,
            sample_rate=sample_rate,
        )
    except ValueError as error:
        raise InputError(f"separator: {error}") from error


def train_separator(config: ConfigDict, workdir: str | os.PathLike) -> RunFolder:
    """Trains a separator by MixIT on a folder of recordings or on the built-in scenes.

    Args:
        config: as in `configs/separator_small.py`.
        workdir: the run's folder, new or to be continued.

    Returns:
        The finished run.
    """
    require_at_least(config, MINIMUMS)
    settings = loop_settings(config.train)
    keras.utils.set_random_seed(config.seed)
    make_learner = functools.partial(_make_learner, config)
    make_learner()  # A network that cannot be made is found out here, before the long work.
    strategy = make_strategy(config.train.strategy)
    require_pairs_on_every_replica(config.train.batch_size, strategy)
    clips = training_clips(config.data)
    require_batch(len(clips), config.train.batch_size)
    run = RunFolder(workdir, settings_of_run(config))
    mixtures = store_mixtures(clips, pathlib.Path(config.data.cache or run.path) / "clips")
    used, held_out = _hold_out(config, mixtures.names)
    crop = round(config.train.crop_seconds * config.data.sample_rate)
    batches = RecordingBatches(mixtures, used, config.train.batch_size, crop, config.seed)
    recordings = [mixtures.read(i, 0, crop)[0] for i in held_out.tolist()]
    train(run, strategy, make_learner, batches, _evaluator(config, recordings), **settings)
    return run


def _make_learner(config: ConfigDict) -> MixITLearner:
    separator = make_separator(config.separator, config.data.sample_rate)
    try:
        return MixITLearner(separator, config.train.clip_norm)
    except ValueError as error:
        raise InputError(f"separator: {error}") from error


def _hold_out(config: ConfigDict, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Which clips to train on, and which to validate on: int [clips] each.

    Of a folder, all parts of a tenth of the recordings are held out, and an even number of them,
    at most `config.data.num_validation`, is validated on. Of the built-in scenes none is, since
    they have a validation split.
    """
    clips = np.arange(len(names))
    if not config.data.directory:
        return clips, clips[:0]
    recordings = [recording_name(name) for name in names]
    rng = np.random.default_rng([config.seed, 0, 3])
    order = rng.permutation(sorted(set(recordings)))
    if len(order) < 20 or config.data.num_validation < 2:
        print("no validation: it needs 20 recordings, of which a tenth is held out", flush=True)
        return clips, clips[:0]
    held_out = np.isin(recordings, order[: len(order) // 10])
    chosen = rng.permutation(clips[held_out])[: config.data.num_validation]
    return clips[~held_out], chosen[: len(chosen) // 2 * 2]


def _evaluator(config: ConfigDict, held_out: list[np.ndarray]):
    """Scores on validation scenes whose sources are known, or MoMi on recordings held out."""
    recordings, sources = held_out, []
    if not config.data.directory:
        count = config.data.num_validation // 2 * 2
        validation = SceneClips(scene_config(config.data), config.data.seed, "validation", count)
        scenes = [validation.scene(i) for i in range(count)]
        sources = [(scene.mixture, scene.sources) for scene in scenes]
        recordings = [scene.mixture for scene in scenes]

    def evaluate(separator: Separator) -> dict[str, float]:
        scores = separation_scores(separator.predict_on_batch, sources)
        if recordings:
            scores["MoMi"] = momi(separator.predict_on_batch, np.stack(recordings), mixit_loss)
        return scores

    return evaluate
