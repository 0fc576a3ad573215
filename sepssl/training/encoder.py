"""Trains an encoder from a configuration."""

import contextlib
import functools
import math
import os
import pathlib
from collections.abc import Iterable

import keras
import numpy as np
from ml_collections import ConfigDict

from sepssl.data.channel_shards import PLAN, ChannelShards, stored_separator
from sepssl.data.clips import Clips, Subset
from sepssl.data.labels import with_labels, with_splits
from sepssl.data.scenes.clips import SceneClips
from sepssl.data.splits import training_roles
from sepssl.data.store import ClipStore, store_channels, store_clips
from sepssl.errors import InputError, input_errors
from sepssl.progress import Progress
from sepssl.representation.encoder import Encoder
from sepssl.representation.whitening import whitened
from sepssl.separation import Separator, load_separator
from sepssl.separation.long_audio import CHUNK_SECONDS
from sepssl.training.batches import ViewBatches
from sepssl.training.checkpoints import RunFolder, run_of_worker
from sepssl.training.clips import (
    labelled_for_training,
    open_recordings,
    scene_config,
    store_for_run,
    training_parts,
)
from sepssl.training.collapse import collapse_warning, projection_warning
from sepssl.training.encoder_learner import EncoderLearner
from sepssl.training.input import require_batch
from sepssl.training.loop import (
    COMMON_MINIMUMS,
    gradient_accumulation_steps,
    loop_settings,
    require_at_least,
    train,
)
from sepssl.training.probe import make_probe
from sepssl.training.similarity_learner import SimilarityLearner
from sepssl.training.start import (
    announce_start,
    initial_encoder,
    settings_of_run,
)
from sepssl.training.strategy import (
    make_strategy,
    require_pairs_on_every_replica,
    worker_of,
)
from sepssl.training.supervised_learner import SupervisedLearner
from sepssl.views import FrontEnd, OnlineSeparation
from sepssl.views.channels import no_channel_warning
from sepssl.views.picture import draw_views
from sepssl.weights import content_name, model_file

# Keys of `config.views` about sampling a pair; the others are arguments of `FrontEnd`.
SAMPLING_KEYS = ("separators", "online", "max_distance_seconds", "overlap")
TRUE_SOURCES = "true_sources"  # instead of a separator's file: an oracle, for ablations
MEMORY_ADVICE = (
    "a lower train.batch_size, or train.gradient_accumulation_steps above {parts}, with fewer "
    "negatives; on accelerators also train.precision='bfloat16'"
)
MINIMUMS = COMMON_MINIMUMS | {
    "views.max_distance_seconds": 0,
    "encoder.embedding_size": 0,
    "encoder.width": 0,
    "encoder.patch_hop_frames": 1,
    "objective.similarity_weight": 0,
    "objective.coincidence_weight": 0,
    "objective.projection_size": 1,
    "objective.hidden_size": 1,
    "train.probe_every": 0,
    "train.probe_clips": 0,
    "train.whitening_pairs": 0,
}


def load_separators(config: ConfigDict) -> dict[str, Separator | pathlib.Path | None]:
    """The separators listed in `config.views.separators`, by unique names; `TRUE_SOURCES` is None.

    A folder in which sepssl-corpus has stored the channels of a separator stands for that.

    If channels are stored, a separator's sample rate may differ from `config.data.sample_rate`: its
    input is resampled, and its channels are resampled back.

    Raises:
        InputError: if a separator cannot be loaded or does not fit, or views need one and none is
            listed.
    """
    if config.views.mixture_mixture >= 1.0:
        return {}
    paths = [path.strip() for path in config.views.separators.split(",") if path.strip()]
    if not paths:
        raise InputError(
            "views.separators is empty, but views show channels; expected "
            "--config.views.separators=FILE.keras[,FILE.keras...], or views.mixture_mixture=1 and "
            "views.mixture_channel=0"
        )
    separators: dict[str, Separator | pathlib.Path | None] = {}
    for path in paths:
        if path == TRUE_SOURCES:
            separators[path] = None
            continue
        if pathlib.Path(path, PLAN).is_file():
            if config.views.online:
                raise InputError(
                    f"views.separators={path}: holds stored channels; expected views.online=False"
                )
            data = config.data
            name = stored_separator(path, data.sample_rate, data.clip_seconds)
            separators[name] = pathlib.Path(path)
            continue
        separator = load_separator(path)
        if config.views.online and separator.sample_rate != config.data.sample_rate:
            raise InputError(
                f"views.online=True: {path} separates at {separator.sample_rate} Hz, recordings "
                f"are read at data.sample_rate={config.data.sample_rate}; expected the same rate, "
                "or views.online=False, which resamples"
            )
        separators[content_name(model_file(path, "Separator"))] = separator
    return separators


def train_encoder(
    config: ConfigDict, workdir: str | os.PathLike, verbose: bool = True
) -> RunFolder:
    """Trains an encoder on pairs of views of recordings and of their separated channels.

    Clips and channels are stored once, in `config.data.cache` (which several runs on the same
    clips may share) or in the run's folder. With `config.task` "supervised", the encoder is trained
    on the clips' labels instead, as a baseline; see `labelled_for_training`.

    Args:
        config: as in `configs/encoder_small.py`.
        workdir: the run's folder, new or to be continued.
        verbose: whether to print what is done, progress and warnings.

    Returns:
        The finished run.
    """
    require_at_least(config, MINIMUMS)
    supervised = config.task == "supervised"
    if supervised:
        config = config.copy_and_resolve_references()
        config.views.update(mixture_mixture=1.0, mixture_channel=0.0, channel_channel=0.0)
    loop_settings(config.train)  # fails early
    strategy = make_strategy(config.train.strategy)
    require_pairs_on_every_replica(
        config.train.batch_size, strategy, gradient_accumulation_steps(config.train)
    )
    # Online, separators are part of the learner, whose variables belong to the strategy.
    with strategy.scope() if config.views.online else contextlib.nullcontext():
        separators = load_separators(config)
    online = config.views.online and bool(separators)
    oracle = TRUE_SOURCES in separators
    recordings = open_recordings(config.data, labels=supervised, sources=oracle)
    num_classes = len(recordings.class_names or ()) if supervised else 0
    with strategy.scope():
        # Loading draws weights too; seeded after it, the learner's do not depend on that.
        keras.utils.set_random_seed(config.seed)
        learner = _make_learner(config, separators.values() if online else (), num_classes)
        with input_errors("encoder"):
            learner.encoder.build()
        learner.build()  # here, where only the seed decides what is drawn
    front_end = learner.front_end
    _require_views_that_fit(config, separators, front_end.log_mel.patch_samples)
    labelled = _labelled(config, recordings, verbose)
    clips = _clips(config, recordings, labelled)
    require_batch(len(clips), config.train.batch_size)
    record = settings_of_run(config, "encoder")
    record["views"]["separators"] = list(separators)  # their content, not their location
    verbose = verbose and worker_of(strategy)[0] == 0
    with run_of_worker(workdir, record, verbose, strategy) as run:
        if verbose:
            announce_start(config, "encoder")
        probe = make_probe(labelled, config.train.probe_clips, config.data.test_fold)

        cache = config.data.cache or workdir
        # A recording with sources is used only if they can be read too.
        with_sources = "readable" if oracle and config.data.directory else "none"
        stored, mixtures = store_for_run(clips, run, cache, with_sources, verbose)
        # Parts of recordings are no longer than this: each is separated in one go, as online.
        chunk_seconds = max(CHUNK_SECONDS, 1.5 * config.data.clip_seconds)
        channels: list[ClipStore | ChannelShards] = []
        for name, separator in {} if online else separators.items():
            if separator is None:
                channels.append(_store_sources(stored, cache, verbose))
            elif isinstance(separator, pathlib.Path):
                channels.append(ChannelShards(separator, mixtures))
            else:
                rate = config.data.sample_rate
                channels.append(
                    store_channels(separator, name, mixtures, rate, cache, chunk_seconds, verbose)
                )
        labels = stored.labels if supervised else None
        batches = ViewBatches(
            mixtures,
            channels,
            config.train.batch_size,
            front_end.log_mel.patch_samples,
            round(config.views.max_distance_seconds * config.data.sample_rate),
            config.views.overlap,
            front_end.num_uniforms,
            config.seed,
            labels,
            len(separators) if online else 0,
            round(config.data.clip_seconds * config.data.sample_rate),
            stored.recordings,
        )
        if (share := batches.shuffle.shared_share()) and verbose:
            print(
                f"{100 * share:.1f} % of a clip's negatives are other parts of its own recording",
                flush=True,
            )
        views = run.path / "views.png"
        draw_views(front_end, batches.load(0), batches.names(0), list(separators), views)

        train(
            run,
            strategy,
            lambda: learner,
            batches,
            probe or (lambda encoder: {}),
            evaluate_every=config.train.probe_every,
            warnings=() if supervised else _warnings(config),
            verbose=verbose,
            picture=views.read_bytes(),
            memory_advice=MEMORY_ADVICE.format(parts=gradient_accumulation_steps(config.train)),
            finish=functools.partial(_whitened, learner, batches, config.train, verbose)
            if config.train.whitening_pairs
            else None,
            **loop_settings(config.train, run.phases),
        )
    return run


def _whitened(
    learner: EncoderLearner,
    batches: ViewBatches,
    settings: ConfigDict,
    verbose: bool,
    encoder: Encoder,
) -> Encoder:
    """An encoder, whitened by the pairs that the steps after the last would show."""
    count = math.ceil(settings.whitening_pairs / settings.batch_size)
    embedded = []
    with Progress("whitening", count, "step", verbose=verbose) as progress:
        for number in range(count):
            a, b, _ = learner.views(batches.load(settings.steps + number))
            embedded.append([encoder.backbone(view) for view in (a, b)])
            progress.update()
    a, b = np.concatenate([np.asarray(pair, np.float32) for pair in embedded], axis=1)
    return whitened(encoder, a, b)


def _labelled(config: ConfigDict, recordings: Clips, verbose: bool) -> Clips | None:
    """The labelled recordings, for the probe; other scenes than those trained on, for scenes."""
    if config.data.directory:
        unneeded = recordings.splits is not None and not config.train.probe_clips
        return None if unneeded else with_labels(recordings, verbose)
    count = config.train.probe_clips
    return SceneClips(scene_config(config.data), config.data.seed, "probe", count)


def _clips(config: ConfigDict, recordings: Clips, labelled: Clips | None) -> Clips:
    """The clips to train on."""
    if config.data.directory and config.task == "supervised":
        recordings = labelled_for_training(recordings, config.data)
    elif config.data.directory:
        recordings = with_splits(recordings, labelled)
        recordings = Subset(recordings, np.flatnonzero(training_roles(recordings) == "train"))
    return training_parts(recordings, config.data)


def _store_sources(stored: Clips, cache: str | os.PathLike, verbose: bool) -> ClipStore:
    """The true sources of clips, one per row: what an oracle separator would find."""
    store = store_clips(stored, cache, "only", verbose)
    if store.skipped:
        raise InputError(store.skipped[0].reason)
    return store


def _warnings(config: ConfigDict) -> tuple:
    projected = config.objective.similarity_weight > 0
    return (collapse_warning, no_channel_warning, *([projection_warning] if projected else []))


def _require_views_that_fit(config: ConfigDict, separators: dict, patch_samples: int) -> None:
    views = config.views
    patch_seconds = patch_samples / config.data.sample_rate
    if not views.overlap and views.max_distance_seconds < patch_seconds:
        raise InputError(
            f"views.max_distance_seconds={views.max_distance_seconds}: expected at least "
            f"{patch_seconds:g}, the length of a patch, if patches must not overlap"
        )
    if views.online and TRUE_SOURCES in separators:
        raise InputError(f"views.separators={TRUE_SOURCES}: expected views.online=False")
    if views.online and views.max_distance_seconds + patch_seconds > config.data.clip_seconds:
        raise InputError(
            f"views.max_distance_seconds={views.max_distance_seconds}: two patches so far apart do "
            "not fit into the clips that views.online separates, of "
            f"data.clip_seconds={config.data.clip_seconds}"
        )


def _make_learner(
    config: ConfigDict,
    online_separators: Iterable[Separator | pathlib.Path | None] = (),
    num_classes: int = 0,
) -> keras.Model:
    """The learner that a configuration describes; a supervised one if there are classes."""
    encoder = initial_encoder(config)
    # Online, there is none that stands for the true sources, or for stored channels.
    separators = [s for s in online_separators if isinstance(s, Separator)]
    patch = encoder.log_mel.patch_samples
    views = {key: value for key, value in config.views.items() if key not in SAMPLING_KEYS}
    with input_errors("views"):
        front_end = FrontEnd(
            encoder.log_mel,
            separation=OnlineSeparation(separators, patch) if separators else None,
            **views,
        )
    step = {
        "clip_norm": config.train.clip_norm,
        "gradient_accumulation_steps": gradient_accumulation_steps(config.train),
    }
    if num_classes:
        return SupervisedLearner(encoder, front_end, num_classes, **step)
    with input_errors("objective"):
        return SimilarityLearner(encoder, front_end, **step, **config.objective)
