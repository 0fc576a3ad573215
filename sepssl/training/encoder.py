"""Training of an encoder, from a configuration."""

import functools
import hashlib
import os
import pathlib

import keras
from ml_collections import ConfigDict

from sepssl.data.pipeline import require_batch
from sepssl.errors import InputError
from sepssl.representation import Encoder, SimilarityLearner, SmallBackbone
from sepssl.separation import Separator, load_separator
from sepssl.training.batches import ViewBatches
from sepssl.training.checkpoints import RunFolder
from sepssl.training.clips import (
    settings_of_run,
    store_channels,
    store_mixtures,
    training_clips,
)
from sepssl.training.loop import COMMON_MINIMUMS, loop_settings, require_at_least, train
from sepssl.training.strategy import make_strategy, require_pairs_on_every_replica
from sepssl.views import FrontEnd

BACKBONES = {"small": SmallBackbone}
MINIMUMS = COMMON_MINIMUMS | {
    "views.max_distance_seconds": 0,
    "encoder.embedding_size": 1,
    "objective.similarity_weight": 0,
    "objective.coincidence_weight": 0,
    "objective.projection_size": 1,
    "objective.hidden_size": 1,
}


def make_encoder(config: ConfigDict) -> Encoder:
    """The network that `config.encoder` describes.

    Raises:
        InputError: if there is no such backbone.
    """
    if config.backbone not in BACKBONES:
        expected = ", ".join(BACKBONES)
        raise InputError(f"encoder.backbone={config.backbone!r}: expected one of {expected}")
    return Encoder(BACKBONES[config.backbone](config.embedding_size))


def load_separators(config: ConfigDict) -> dict[str, Separator]:
    """The separators that `config.views.separators` names, by a name that tells them apart.

    Raises:
        InputError: if one cannot be loaded, does not fit, or is missing though views need it.
    """
    if config.views.mixture_mixture >= 1.0:
        return {}
    paths = [path.strip() for path in config.views.separators.split(",") if path.strip()]
    if not paths:
        raise InputError(
            "views.separators is empty but views show channels; expected "
            "--config.views.separators=FILE.keras[,FILE.keras...], or views.mixture_mixture=1 and "
            "views.mixture_channel=0"
        )
    separators = {}
    for path in paths:
        separator = load_separator(path)
        if separator.sample_rate != config.data.sample_rate:
            raise InputError(
                f"{path}: separates at {separator.sample_rate} Hz; expected "
                f"data.sample_rate={config.data.sample_rate}"
            )
        digest = hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()[:8]
        separators[f"{pathlib.Path(path).stem}-{digest}"] = separator
    counts = {separator.num_sources for separator in separators.values()}
    if len(counts) > 1:
        raise InputError(f"views.separators: {sorted(counts)} sources; expected the same of all")
    return separators


def train_encoder(config: ConfigDict, workdir: str | os.PathLike) -> RunFolder:
    """Trains an encoder on pairs of views of recordings and of their separated channels.

    Clips and channels are stored once, in `config.data.cache` (which several runs on the same
    clips may share) or in the run's folder.

    Args:
        config: as in `configs/encoder_small.py`.
        workdir: the run's folder, new or to be continued.

    Returns:
        The finished run.
    """
    require_at_least(config, MINIMUMS)
    separators = load_separators(config)
    settings = loop_settings(config.train)
    keras.utils.set_random_seed(config.seed)
    make_learner = functools.partial(_make_learner, config)
    front_end = make_learner().front_end
    if front_end.log_mel.sample_rate != config.data.sample_rate:
        raise InputError(
            f"data.sample_rate={config.data.sample_rate}: expected "
            f"{front_end.log_mel.sample_rate}, the encoder's"
        )
    strategy = make_strategy(config.train.strategy)
    require_pairs_on_every_replica(config.train.batch_size, strategy)
    clips = training_clips(config.data)
    require_batch(len(clips), config.train.batch_size)
    record = settings_of_run(config)
    record["views"]["separators"] = list(separators)  # what is in the files, not where they lie
    run = RunFolder(workdir, record)

    cache = pathlib.Path(config.data.cache or run.path)
    mixtures = store_mixtures(clips, cache / "clips")
    channels = [
        store_channels(separator, name, mixtures, cache / "channels" / name)
        for name, separator in separators.items()
    ]
    batches = ViewBatches(
        mixtures,
        channels,
        config.train.batch_size,
        front_end.log_mel.patch_samples,
        round(config.views.max_distance_seconds * config.data.sample_rate),
        front_end.num_uniforms,
        config.seed,
    )
    train(run, strategy, make_learner, batches, lambda encoder: {}, **settings)
    return run


def _make_learner(config: ConfigDict) -> SimilarityLearner:
    encoder = make_encoder(config.encoder)
    views, objective = config.views, config.objective
    try:
        return SimilarityLearner(
            encoder,
            FrontEnd(
                encoder.log_mel,
                mixture_mixture=views.mixture_mixture,
                mixture_channel=views.mixture_channel,
                channel_channel=views.channel_channel,
                channel_floor_db=views.channel_floor_db,
                example_mixing=views.example_mixing,
                min_mixing_db=views.min_mixing_db,
                max_mixing_db=views.max_mixing_db,
                time_masks=views.time_masks,
                time_width=views.time_width,
                frequency_masks=views.frequency_masks,
                frequency_width=views.frequency_width,
            ),
            similarity_weight=objective.similarity_weight,
            coincidence_weight=objective.coincidence_weight,
            temperature=objective.temperature,
            projection_size=objective.projection_size,
            hidden_size=objective.hidden_size,
            clip_norm=config.train.clip_norm,
        )
    except ValueError as error:
        raise InputError(f"encoder: {error}") from error
