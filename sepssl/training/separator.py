"""Trains a separator from a configuration."""

import functools
import os
from collections.abc import Callable

import keras
import numpy as np
from ml_collections import ConfigDict

from sepssl.data.clips import Clips, Subset
from sepssl.data.labels import with_labels, with_splits
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.spec import mixed_sounds
from sepssl.data.splits import hold_out, training_roles
from sepssl.data.store import ClipStore
from sepssl.errors import InputError, input_errors
from sepssl.separation import Separator
from sepssl.separation.metrics import SeparationScores, momi
from sepssl.separation.permutation import MAX_SOURCES
from sepssl.training.batches import RecordingBatches
from sepssl.training.checkpoints import RunFolder, run_of_worker
from sepssl.training.clips import (
    open_recordings,
    scene_config,
    store_for_run,
    training_parts,
)
from sepssl.training.input import require_batch
from sepssl.training.loop import (
    COMMON_MINIMUMS,
    gradient_accumulation_steps,
    loop_settings,
    require_at_least,
    train,
)
from sepssl.training.monitors import TrainingDiverged
from sepssl.training.separator_learner import SeparatorLearner
from sepssl.training.start import announce_start, initial_separator, settings_of_run
from sepssl.training.strategy import make_strategy, worker_of

MEMORY_ADVICE = (
    "train.gradient_accumulation_steps above {parts} or separator.rematerialize=True, which change "
    "no result, or a lower train.batch_size or train.crop_seconds"
)
MINIMUMS = COMMON_MINIMUMS | {
    "data.num_validation": 0,
    "separator.num_coefficients": 1,
    "train.crop_seconds": 0.1,
    "train.num_mixtures": 2,
    "train.sparsity_weight": 0,
    "train.covariance_weight": 0,
}


def train_separator(
    config: ConfigDict, workdir: str | os.PathLike, verbose: bool = True
) -> RunFolder:
    """Trains a separator on a folder of recordings or on the built-in scenes.

    Trains with MixIT, RemixIT or Self-Remixing (`config.train.objective`) or, for a fraction
    `config.train.supervised_fraction` of every batch, with PIT on true sources, which the scenes
    and folders laid out like FUSS have.

    Args:
        config: as in `configs/separator_small.py`.
        workdir: the run's folder, new or to be continued.
        verbose: whether to print what is done, progress and warnings.

    Returns:
        The finished run.
    """
    require_at_least(config, MINIMUMS)
    loop_settings(config.train)  # fails early
    strategy = make_strategy(config.train.strategy)
    keras.utils.set_random_seed(config.seed)
    make_learner = functools.partial(_make_learner, config)
    num_sources = make_learner().separator.num_sources  # fails early if it cannot be made
    supervised = _supervised_clips(config.train, strategy.num_replicas_in_sync, num_sources)
    if supervised and num_sources > MAX_SOURCES:
        raise InputError(
            f"separator.num_sources={num_sources}: expected at most {MAX_SOURCES} "
            "to train with sources"
        )
    clips = _clips(config.data, bool(supervised), verbose)
    require_batch(len(clips), config.train.batch_size)
    verbose = verbose and worker_of(strategy)[0] == 0
    with run_of_worker(workdir, settings_of_run(config, "separator"), verbose, strategy) as run:
        if verbose:
            announce_start(config, "separator")
        cache, sources = config.data.cache or workdir, "rows" if supervised else "none"
        stored, recordings = store_for_run(clips, run, cache, sources, verbose)
        if supervised:
            _require_outputs(recordings, num_sources)
        used, held_out = _hold_out(config, stored, verbose)
        crop = round(config.train.crop_seconds * config.data.sample_rate)
        batches = RecordingBatches(
            recordings,
            used,
            config.train.batch_size,
            crop,
            config.seed,
            config.train.num_mixtures,
            tuple(config.train.gain_range_db),
            config.train.single_mixture_fraction,
            num_sources,
            supervised,
            stored.recordings,
            num_sources if _remixes(config.train) else 0,
            config.train.get("reversed_fraction", 0.0),
        )
        scenes, validation = _validation(config, stored, recordings, held_out, crop)
        several = (mixture for mixture, sources in scenes if np.sum(sources.any(axis=1)) > 1)
        heard = [*several, *validation, recordings.read(int(used[0]), 0, crop)[0]]
        train(
            run,
            strategy,
            make_learner,
            batches,
            _evaluator(scenes, validation),
            verbose=verbose,
            example=_example(heard[0]),
            memory_advice=MEMORY_ADVICE.format(parts=gradient_accumulation_steps(config.train)),
            **loop_settings(config.train, run.phases),
        )
    return run


def _make_learner(config: ConfigDict) -> SeparatorLearner:
    separator = initial_separator(config)
    options = (
        "objective",
        "num_mixtures",
        "signal_loss",
        "search",
        "sparsity_weight",
        "covariance_weight",
        "penalty_ramp_steps",
        "silent_weight",
        "silent_max_snr",
        "average_decay",
        "kept_weights",
    )
    with input_errors("separator"):
        return SeparatorLearner(
            separator,
            **{name: config.train[name] for name in options if name in config.train},
            clip_norm=config.train.clip_norm,
            gradient_accumulation_steps=gradient_accumulation_steps(config.train),
        )


def _supervised_clips(train: ConfigDict, replicas: int, num_sources: int) -> int:
    """Number of clips in a batch that are trained on with their true sources.

    Raises:
        InputError: if batch size and fractions do not fit together, or a range is invalid.
    """
    for name in ("supervised_fraction", "single_mixture_fraction", "reversed_fraction"):
        if not 0 <= train.get(name, 0) <= 1:
            raise InputError(f"train.{name}={train[name]}: expected 0 to 1")
    gains = tuple(train.gain_range_db)
    if len(gains) != 2 or not gains[0] <= gains[1]:
        raise InputError(
            f"train.gain_range_db={gains}: expected the lowest and the highest gain in dB"
        )
    supervised = round(train.supervised_fraction * train.batch_size)
    if train.supervised_fraction and not supervised:
        raise InputError(
            f"train.supervised_fraction={train.supervised_fraction}: expected at least one of the "
            f"train.batch_size={train.batch_size} clips"
        )
    unsupervised = train.batch_size - supervised
    remixes = _remixes(train)
    if remixes and train.single_mixture_fraction:
        raise InputError(
            f"train.single_mixture_fraction={train.single_mixture_fraction}: applies to mixtures "
            f"of mixtures; expected 0 with train.objective={train.objective!r}"
        )
    group = "separator.num_sources" if remixes else "train.num_mixtures"
    parts = gradient_accumulation_steps(train)
    shares = replicas * parts
    multiple = (num_sources if remixes else train.num_mixtures) * shares
    if train.batch_size < 1 or unsupervised % multiple or supervised % shares:
        split = " * replicas" + (" * train.gradient_accumulation_steps" if parts > 1 else "")
        raise InputError(
            f"train.batch_size={train.batch_size}, of which {supervised} with sources "
            f"(train.supervised_fraction={train.supervised_fraction}): expected a multiple of "
            f"{multiple} ({group}{split}) without sources"
            + (f" and of {shares} with sources" if shares > 1 else "")
        )
    return supervised


def _remixes(train: ConfigDict) -> bool:
    """Whether recordings are trained on by remixing channels, not by MixIT."""
    return train.get("objective", "mixit") != "mixit"


def _require_outputs(recordings: ClipStore, num_sources: int) -> None:
    for index, name in enumerate(recordings.names):
        count = recordings.num_rows(index) - 1
        if count > num_sources:
            raise InputError(
                f"{name}: has {count} sources; expected no more than "
                f"separator.num_sources={num_sources}"
            )


def _clips(data: ConfigDict, sources: bool, verbose: bool) -> Clips:
    """The clips for training and validation."""
    recordings = open_recordings(data, sources=sources)
    if data.directory:
        if recordings.splits is None:
            recordings = with_splits(recordings, with_labels(recordings, verbose))
        recordings = Subset(recordings, np.flatnonzero(training_roles(recordings) != "test"))
    return training_parts(recordings, data)


def _hold_out(config: ConfigDict, stored: Clips, verbose: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which of the stored clips to train on, and which to validate on: int [clips] each.

    Validation uses the clips that the data reserves for it, if there are any, else held-out
    recordings. No built-in scene is held out, since scenes have a validation split.
    """
    everything = np.arange(len(stored))
    if not config.data.directory:
        return everything, everything[:0]
    validation = training_roles(stored) == "validation"
    if validation.any():
        count = config.data.num_validation
        chosen = np.random.default_rng([config.seed, 0, 3]).permutation(everything[validation])
        return everything[~validation], chosen[: min(len(chosen), count) // 2 * 2]
    if mixed_sounds(config.data.directory):  # other scenes of the same sounds would tell nothing
        if verbose:
            print("no validation: data.mix.validation_folds names none", flush=True)
        return everything, everything[:0]
    used, held_out = hold_out(
        stored.recordings or stored.names, config.data.num_validation, config.seed
    )
    if verbose and not len(held_out):
        print(
            "no validation: it needs at least 20 recordings, a tenth of which is held out",
            flush=True,
        )
    return used, held_out


def _validation(
    config: ConfigDict, stored: Clips, store: ClipStore, held_out: np.ndarray, crop: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], list[np.ndarray]]:
    """What to validate on: mixtures with sources, if there are any, and mixtures alone."""
    kept = [store.read(i, 0, crop) for i in held_out.tolist()]
    recordings = [clip[0] for clip in kept]
    clips = [(clip[0], clip[1:]) for clip in kept if len(clip) > 1]
    if not config.data.directory:
        count = config.data.num_validation // 2 * 2
        validation = SceneClips(scene_config(config.data), config.data.seed, "validation", count)
        scenes = [validation.scene(i) for i in range(count)]
        clips = [(scene.mixture, scene.sources) for scene in scenes]
        recordings = [scene.mixture for scene in scenes]
    elif mixed_sounds(config.data.directory):  # stored without their sources, to save space
        clips = [stored.read_with_sources(i) for i in held_out.tolist()]
        recordings = [mixture for mixture, _ in clips]
    return clips, recordings


def _evaluator(
    clips: list[tuple[np.ndarray, np.ndarray]], recordings: list[np.ndarray]
) -> Callable[[Separator], dict[str, float]]:
    """Scores what `_validation` returns; raises TrainingDiverged for channels that are NaN."""

    def evaluate(separator: Separator) -> dict[str, float]:
        def separate(mixtures: np.ndarray) -> np.ndarray:
            # Each replica predicts the whole batch, and Keras joins what they return.
            channels = separator.predict_on_batch(mixtures)[: len(mixtures)]
            if not np.isfinite(channels).all():
                raise TrainingDiverged("channels of a validation clip hold NaN or infinity")
            return channels

        scores = SeparationScores()
        for mixture, sources in clips:
            scores.add(mixture, sources, separate(mixture[None])[0])
        result = scores.result()
        if recordings:
            result["MoMi"] = momi(separate, np.stack(recordings))
        return result

    return evaluate


def _example(mixture: np.ndarray) -> Callable[[Separator], dict[str, np.ndarray]]:
    """A clip and its channels."""

    def example(separator: Separator) -> dict[str, np.ndarray]:
        channels = np.asarray(separator(mixture[None]), np.float32)[0]
        return {"clip": mixture} | {f"channel {i + 1}": c for i, c in enumerate(channels)}

    return example
