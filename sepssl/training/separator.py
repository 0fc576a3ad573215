"""Training of a separator, from a configuration."""

import functools
import os
import pathlib

import keras
import numpy as np
from ml_collections import ConfigDict

from sepssl.data.pipeline import RecordingBatches
from sepssl.data.scenes.clips import SceneClips
from sepssl.errors import InputError
from sepssl.separation import TDCN, LearnedBasis, MixITLearner, Separator, STFTBasis, mixit_loss
from sepssl.separation.metrics import momi, separation_scores
from sepssl.training.checkpoints import RunFolder
from sepssl.training.clips import scene_config, store_mixtures, training_clips
from sepssl.training.loop import schedule_of, train
from sepssl.training.strategy import make_strategy, require_pairs_on_every_replica


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
    schedule = schedule_of(config.train)
    keras.utils.set_random_seed(config.seed)
    make_learner = functools.partial(_make_learner, config)
    make_learner()  # A network that cannot be made is found out here, before the long work.
    strategy = make_strategy(config.train.strategy)
    require_pairs_on_every_replica(config.train.batch_size, strategy)
    clips = training_clips(config.data)
    run = RunFolder(workdir, config.to_dict())
    mixtures = store_mixtures(clips, pathlib.Path(config.data.cache or run.path) / "clips")
    crop = round(config.train.crop_seconds * config.data.sample_rate)
    order = np.random.default_rng(config.seed).permutation(len(mixtures))
    held_out = order[: _num_held_out(config.data, len(mixtures))]
    batches = RecordingBatches(
        mixtures, np.sort(order[len(held_out) :]), config.train.batch_size, crop, config.seed
    )
    train(
        run,
        strategy,
        make_learner,
        batches,
        _evaluator(config, [mixtures.read(i, 0, crop)[0] for i in held_out.tolist()]),
        **schedule,
    )
    return run


def _make_learner(config: ConfigDict) -> MixITLearner:
    separator = make_separator(config.separator, config.data.sample_rate)
    return MixITLearner(separator, config.train.clip_norm)


def _num_held_out(data: ConfigDict, num_clips: int) -> int:
    """Recordings of a folder to validate on: even, at most a tenth; 0 for the built-in scenes."""
    return min(data.num_validation, num_clips // 10) // 2 * 2 if data.directory else 0


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
