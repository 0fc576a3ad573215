"""A first look at recordings: excerpts separated, embedded, searched, mapped, trained on; a page.

Everything is done with the models that come with the package.
"""

import csv
import hashlib
import itertools
import os
import pathlib
import re
import shlex
import shutil
import time
from collections.abc import Iterator

import keras
import numpy as np
import soundfile
import tensorflow as tf
from ml_collections import ConfigDict

from sepssl.audio.decoding import SILENCE
from sepssl.audio.files import write_audio
from sepssl.data.clips import Clips, Skipped, report_skipped
from sepssl.data.sources import open_clips
from sepssl.data.spec import is_path, mixed_sounds
from sepssl.errors import InputError
from sepssl.files import atomic_folder, printable, write_csv
from sepssl.index.rows import StoredRows, read_rows
from sepssl.index.search import Found, WindowIndex
from sepssl.pipelines.channel_record import channel_files
from sepssl.pipelines.embed import embed_recordings
from sepssl.pipelines.map import SOUND_SECONDS, write_map
from sepssl.pipelines.quickstart_folder import QuickstartFolder
from sepssl.pipelines.search import sounds_of
from sepssl.pipelines.separate import open_recordings, output_names, separate_recordings
from sepssl.progress import counted
from sepssl.reports.found import Sound
from sepssl.reports.page import Section, write_page
from sepssl.reports.training import encoder_curves, separator_curves
from sepssl.representation import load_encoder
from sepssl.separation import Separator, load_separator
from sepssl.training.checkpoints import RunFolder
from sepssl.training.clips import MIN_SECONDS
from sepssl.training.encoder import train_encoder
from sepssl.training.monitors import read_metrics
from sepssl.training.separator import train_separator
from sepssl.version import __version__
from sepssl.weights import reference

SEARCHED_SECONDS = 60.0  # of a recording, for its loudest excerpt; our choice
AUDIBLE_DB = -30.0  # below the excerpt: channels that are quieter are not shown; our choice
LOUD_DB = -12.0  # a channel that is searched for is no quieter than this; our choice
FRAMES = 20  # parts of a window; our choice, as the share of them that has to hold sound
FILLED = 0.8
HITS = 3  # shown for every query
SKIPPED_FILE = "skipped.csv"
MIN_BATCH = 2  # the smallest batch that either stage can learn from

SEPARATED = (
    "Excerpts and the channels that the separator has split them into, without being told what is"
    " in them. Channels more than"
    f" {-AUDIBLE_DB:g} dB below the excerpt are left out."
)
FOUND = (
    "A channel of one excerpt, and the sounds nearest to it in others. What was searched are"
    " mixtures and their channels; a channel was found where one is shown beside its mixture. Of"
    " the louder channels in windows without pauses, these have the nearest neighbours: examples of"
    " what is found, not of how often."
)
STATES = (
    "One excerpt, as three states of the separator split it: untrained, as shipped, and after the"
    " moment of training above. So short a training changes little; it shows how it is done."
)
INTRODUCTION = "Made with the models that come with sepssl."
NOTHING = (
    "Nothing to show: there are too few recordings, or none has channels that are loud and long"
    " enough."
)
MAP = (
    "Every window of every excerpt, and its channels: near points sound alike, and a click plays"
    " one."
)
EXPECTED = (
    "Measured on scenes of 4 s, mixed from sounds of ESC-50 that no model has heard (fold 5). How"
    " the numbers were made, and what they do not say: the documentation's pages Models and Find"
    " sounds."
)
_WHOLE, _IMPROVED = (
    "a sound on its own stays whole, SI-SNR",
    "improvement in scenes of 2 to 4 sounds, SI-SNRi",
)
EXPECTED_SCORES = [
    {"separator": "small", _WHOLE: "43.4 dB", _IMPROVED: "6.6 dB"},
    {"separator": "small-mixit", _WHOLE: "14.8 dB", _IMPROVED: "7.7 dB"},
    {"separator": "best possible mask, which knows the sounds", _WHOLE: "", _IMPROVED: "19.5 dB"},
]
GO_ON = "The same on all of the recordings, and training in earnest:"


def quickstart(
    config: ConfigDict, workdir: str | os.PathLike, verbose: bool = True
) -> QuickstartFolder:
    """Shows what the shipped models make of recordings, and trains both on them for a moment.

    Of recordings, excerpts are used: the loudest seconds of up to a minute of each, of as many
    recordings as there are excerpts, drawn at random; several of each, if there are fewer.

    A run that was stopped goes on when it is repeated, and one that is complete is left alone.

    Args:
        config: as `configs/quickstart.py` makes it.
        workdir: folder of the run, new or to be continued.
        verbose: whether to print what is done, and progress.

    Returns:
        Where the results lie.

    Raises:
        InputError: if the recordings cannot be opened or none can be read, or `workdir` holds a run
            of other recordings or another configuration, or something else.
    """
    separator = load_separator(config.separator.train.init_from)
    encoder = load_encoder(config.encoder.train.init_from)
    clips = open_recordings(
        config.input, separator.sample_rate, exclude=workdir, data_dir=config.data_dir or None
    )
    record = config.to_dict() | {"recordings": _identity(clips)}
    del record["input"], record["data_dir"]  # how they were named; what they are is recorded
    run = RunFolder(workdir, record, verbose)
    paths = QuickstartFolder(run.path.resolve())
    if paths.page.exists():
        if verbose:
            print(f"{paths.root}: complete already", flush=True)
        return paths
    began = time.monotonic()

    def step(title: str) -> None:
        if verbose:
            print(f"\n== {title}", flush=True)

    with run.lock():
        step(f"1/4 excerpts of {counted(len(clips), 'recording')}")
        if not paths.recordings.exists():
            write_excerpts(clips, paths.recordings, config)
        skipped = [*clips.skipped, *_passed_over(paths.recordings)]
        step("2/4 separate, embed, search, map")
        excerpts = open_clips(paths.recordings, separator.sample_rate)
        separation = separate_recordings(separator, excerpts, paths.separated, verbose=verbose)
        rate = encoder.sample_rate
        embedding = embed_recordings(
            encoder,
            excerpts if rate == separator.sample_rate else open_clips(paths.recordings, rate),
            paths.index,
            separator,
            window_seconds=config.window_seconds,
            hop_seconds=config.window_seconds / 2,
            models={
                kind: reference(config[kind].train.init_from, kind.capitalize())
                for kind in ("encoder", "separator")
            },
            verbose=verbose,
        )
        paths.map.unlink(missing_ok=True)
        seconds = len(excerpts) * config.excerpt_seconds
        write_map(paths.index, paths.map, seed=config.seed, self_contained=seconds <= SOUND_SECONDS)
        separated = _separated(excerpts, paths.separated, separator.num_sources, config.shown)
        found = _found(paths, separator, config.queries)
        sections = [
            Section("What is in them", SEPARATED, sounds=separated, otherwise=NOTHING),
            Section("Find this sound", FOUND, sounds=found, otherwise=NOTHING),
            Section("Map", MAP, frame=paths.map.name),
        ]
        if len(excerpts) >= 2 * MIN_BATCH:
            step("3/4 train the separator on them for a moment")
            _train(config, "separator", paths, len(excerpts), verbose)
            step("4/4 train the encoder on them for a moment")
            _train(config, "encoder", paths, len(excerpts), verbose)
            sections += _training(paths)
            if separated:
                states = _states(config, separated[0], separator, paths)
                sections.append(Section("States of the separator", STATES, sounds=states))
            shutil.rmtree(paths.cache, ignore_errors=True)
        elif verbose:
            expected = f"expected {2 * MIN_BATCH} or more"
            print(f"too few to train on: {counted(len(excerpts), 'excerpt')}; {expected}")
        facts = {
            "recordings": printable(f"{config.input}: {len(clips)}, {len(skipped)} skipped"),
            "excerpts": f"{len(excerpts)} of {config.excerpt_seconds:g} s",
            "models": f"separator {config.separator.train.init_from}, "
            f"encoder {config.encoder.train.init_from}",
            "seconds": f"{time.monotonic() - began:.0f}",
            "versions": f"sepssl {__version__}, TensorFlow {tf.__version__}, "
            f"Keras {keras.__version__}",
        }
        sections += [
            Section("What to expect", EXPECTED, table=EXPECTED_SCORES),
            Section("Go on", GO_ON, commands=_commands(config.input)),
            Section("Facts about this run", facts=facts),
        ]
        write_page(paths.page, "A first look at your recordings", [INTRODUCTION], sections)
    if verbose:
        report_skipped(skipped)
        for line in dict.fromkeys([*separation.warnings, *embedding.warnings]):
            print(f"warning: {printable(line)}")
    return paths


def _training(paths: QuickstartFolder) -> list[Section]:
    """Curves of both trainings."""
    separator = read_metrics(paths.separator / "metrics.jsonl")
    encoder = read_metrics(paths.encoder / "metrics.jsonl")
    return [
        # Of so short a training, one state alone is validated: no curve.
        separator_curves(separator, "A moment of training: the separator")[0],
        *encoder_curves({"": encoder}, "A moment of training: the encoder"),
    ]


def _identity(clips: Clips) -> str:
    """Tells recordings apart by where they are, their names, dates and sizes."""
    digest = hashlib.sha256(os.fsencode(clips.origin))
    for index, name in enumerate(clips.names):
        digest.update(os.fsencode(f"{name}\0{clips.stamp(index)}\0"))
    return f"{len(clips)}, of digest {digest.hexdigest()[:16]}"


def write_excerpts(clips: Clips, folder: pathlib.Path, config: ConfigDict) -> None:
    """Writes excerpts of recordings as wav files, mono at the clips' sample rate.

    `excerpts.csv` among them tells which recording each is of, and where it begins in it;
    `skipped.csv` which recordings were passed over, since they cannot be read, or are silent or too
    short there, and why.

    Args:
        clips: the recordings.
        folder: new; appears whole.
        config: `seed`, `excerpts`, how many, and `excerpt_seconds`, how long.

    Raises:
        InputError: if nothing is left.
    """
    rate = clips.sample_rate
    length, searched = int(config.excerpt_seconds * rate), int(SEARCHED_SECONDS * rate)
    rng = np.random.default_rng(config.seed)
    each = -(-config.excerpts // len(clips))
    order = rng.permutation(len(clips))
    if clips.in_order:  # of which each step back costs a pass over all of them
        order = np.sort(order[: 2 * config.excerpts])
    skipped: list[Skipped] = []
    rows: list[list[str]] = []
    with atomic_folder(folder) as temporary:
        for index in order.tolist():
            if len(rows) == config.excerpts:
                break
            try:
                for start, sound in _excerpts(clips, index, each, length, searched, rng):
                    name = f"{len(rows) + 1:02d}-{_file_name(clips, index)}-{start / rate:.1f}s.wav"
                    write_audio(temporary / name, sound, rate, "FLOAT")
                    rows.append([name, clips.names[index], f"{start / rate:.3f}"])
                    if len(rows) == config.excerpts:
                        break
            except InputError as error:
                skipped.append(Skipped(clips.names[index], str(error)))
        if not rows:
            raise InputError(
                f"{printable(config.input)}: no recording could be read; the last: "
                f"{skipped[-1].reason}"
            )
        write_csv(temporary / "excerpts.csv", ["excerpt", "recording", "start"], rows)
        write_csv(temporary / SKIPPED_FILE, Skipped._fields, skipped)


def _passed_over(folder: pathlib.Path) -> list[Skipped]:
    """The recordings that `write_excerpts` passed over."""
    with open(folder / SKIPPED_FILE, newline="", encoding="utf-8") as text:
        return [Skipped(*row) for row in csv.reader(text)][1:]


def _excerpts(
    clips: Clips, index: int, count: int, length: int, searched: int, rng: np.random.Generator
) -> Iterator[tuple[int, np.ndarray]]:
    """The first sample of each excerpt of a recording, and its sound."""
    whole = clips.read(index) if clips.in_order else None
    total = clips.num_samples(index) if whole is None else len(whole)
    count = min(count, max(1, total // length))
    edges = [total * part // count for part in range(count + 1)]
    for low, high in itertools.pairwise(edges):
        start = low + int(rng.integers(max(high - low - searched, 0) + 1))
        size = min(high - start, searched)
        part = clips.read(index, start, size) if whole is None else whole[start : start + size]
        offset = _loudest(part, length, clips.sample_rate)
        sound = part[offset : offset + length]
        if len(sound) < MIN_SECONDS * clips.sample_rate or np.abs(sound).max() <= SILENCE:
            raise InputError(
                f"{clips.names[index]}: silent, or shorter than {MIN_SECONDS} s, from "
                f"{start / clips.sample_rate:.1f} s; expected sound"
            )
        yield start + offset, sound


def _file_name(clips: Clips, index: int) -> str:
    """A clip's classes, if they are known, or its name, without what file systems refuse."""
    text = os.path.splitext(clips.names[index])[0]
    if clips.labels is not None and clips.class_names is not None:
        text = "-".join(np.array(clips.class_names)[clips.labels[index] == 1])
    text = os.fsencode(text).decode("utf-8", "replace")
    return re.sub(r"\W+", "-", text).strip("-")[-40:] or "recording"


def _loudest(waveform: np.ndarray, length: int, step: int) -> int:
    """Where the part of `length` samples with the most energy begins; in steps."""
    if len(waveform) <= length:
        return 0
    energy = np.concatenate([[0.0], np.cumsum(np.square(waveform, dtype=np.float64))])
    starts = np.arange(0, len(waveform) - length + 1, step)
    return int(starts[np.argmax(energy[starts + length] - energy[starts])])


def _separated(
    excerpts: Clips, folder: pathlib.Path, num_sources: int, count: int
) -> list[list[Sound]]:
    """The excerpts with the most channels that can be heard: the mixture, then the channels."""
    shown = []
    for index, (name, output) in enumerate(
        zip(excerpts.names, output_names(excerpts), strict=True)
    ):
        files = channel_files(folder, output, num_sources)
        if not all(file.exists() for file in files):
            continue
        mixture, rate = excerpts.read(index), excerpts.sample_rate
        channels = np.stack([soundfile.read(file, dtype="float32")[0] for file in files])
        title = Sound(pathlib.PurePath(name).stem, mixture, rate)
        shown.append([title, *_audible(mixture, channels, rate)])
    return sorted(shown, key=len, reverse=True)[:count]  # stable: by name among equals


def _audible(mixture: np.ndarray, channels: np.ndarray, rate: int) -> list[Sound]:
    """The channels that can be heard, the loudest first, labelled by number and level."""
    powers = np.mean(np.square(channels, dtype=np.float64), axis=1)
    power = np.mean(np.square(mixture, dtype=np.float64))
    levels = 10 * np.log10(np.maximum(powers, 1e-20) / max(power, 1e-20))
    return [
        Sound(f"channel {i + 1}, {levels[i]:.0f} dB", channels[i], rate)
        for i in np.argsort(-levels, kind="stable")
        if levels[i] >= AUDIBLE_DB
    ]


def _found(paths: QuickstartFolder, separator: Separator, count: int) -> list[list[Sound]]:
    """For each of some channels, the channel and the nearest windows of other recordings."""
    index = WindowIndex(paths.index)
    rows = read_rows(paths.index)
    loud = (rows.channels > 0) & (rows.levels >= LOUD_DB) & _filled(rows)
    candidates = np.flatnonzero(loud & rows.vectors.any(axis=1))
    # What all vectors have in common would favour sounds that are like any other.
    vectors = rows.vectors - rows.vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    scores = vectors[candidates] @ vectors.T
    scores[rows.recording[candidates][:, None] == rows.recording] = -1.0
    shown: list[list[Sound]] = []
    used: set[str] = set()
    for place in np.argsort(-scores.max(axis=1, initial=-1.0), kind="stable"):
        query = index.row(int(rows.numbers[candidates[place]]))
        if query.recording in used:
            continue
        nearest: dict[str, Found] = {}
        for hit in index.search(index.vector(query.row), len(index)):
            if hit.recording != query.recording:
                nearest.setdefault(hit.recording, hit)
        hits = list(nearest.values())[:HITS]
        if not hits:
            break
        used |= {query.recording, *(hit.recording for hit in hits)}
        sounds = [_labelled(query, sounds_of(query, separator)[-1], "searched for")]
        for rank, hit in enumerate(hits, start=1):
            for sound in sounds_of(hit, separator):
                sounds.append(_labelled(hit, sound, f"{rank}. score {hit.score:.2f}"))
        shown.append(sounds)
        if len(shown) == count:
            break
    return shown


def _filled(rows: StoredRows) -> np.ndarray:
    """bool [rows]: whether the mixture sounds for most of a window; pauses resemble each other."""
    waveforms = [soundfile.read(path, dtype="float32") for path in rows.paths]
    filled = np.zeros(len(rows), bool)
    for place in range(len(rows)):
        waveform, rate = waveforms[rows.recording[place]]
        window = waveform[round(rows.starts[place] * rate) : round(rows.ends[place] * rate)]
        frames = window[: len(window) // FRAMES * FRAMES].reshape(FRAMES, -1)
        powers = np.mean(np.square(frames, dtype=np.float64), axis=1)
        filled[place] = np.mean(powers > 1e-3 * powers.max()) >= FILLED
    return filled


def _labelled(window: Found, sound: Sound, what: str) -> Sound:
    where = pathlib.PurePath(window.recording).stem
    return sound._replace(label=f"{what}: {where} at {window.start:.1f} s, {sound.label}")


def _train(
    config: ConfigDict, stage: str, paths: QuickstartFolder, num_clips: int, verbose: bool
) -> RunFolder:
    """Trains the separator or the encoder on the excerpts."""
    settings = config[stage].copy_and_resolve_references()
    settings.data.update(directory=str(paths.recordings), cache=str(paths.cache))
    settings.train.batch_size = min(settings.train.batch_size, num_clips // 2 * 2)
    train = train_separator if stage == "separator" else train_encoder
    return train(settings, paths.separator if stage == "separator" else paths.encoder, verbose)


def _states(
    config: ConfigDict, shown: list[Sound], separator: Separator, paths: QuickstartFolder
) -> list[list[Sound]]:
    """One excerpt, split by the separator untrained, as it came, and as it was trained on.

    Args:
        config: for the seed.
        shown: the excerpt, then the channels of the separator as it came.
        separator: as it came.
        paths: of the run.
    """
    excerpt, *channels = shown
    keras.utils.set_random_seed(config.seed)
    untrained = Separator.from_config(separator.get_config())
    untrained.build()

    def split(state: Separator) -> list[Sound]:
        # Once each: compiling for it would take longer.
        found = np.asarray(state(excerpt.waveform[None]))[0]
        return _audible(excerpt.waveform, found, excerpt.sample_rate)

    states = {
        "untrained": split(untrained),
        "as it came": channels,
        "trained on": split(load_separator(paths.separator / "final.keras")),
    }
    return [
        [sound._replace(label=f"{name}: {sound.label}") for sound in sounds]
        for name, sounds in states.items()
    ]


def _commands(source: str) -> list[str]:
    """What to run next, on all of the recordings."""
    if source == "scenes":
        source = "FOLDER"
    elif mixed := mixed_sounds(source):
        source = f"mix:{os.path.abspath(mixed)}"
    elif is_path(source):
        source = os.path.abspath(source)
    folder = printable(shlex.quote(source))
    return [
        f"sepssl-separate --input={folder} --output=separated",
        f"sepssl-embed --separator=small --input={folder} --output=index",
        "sepssl-search --index=index --query=SOUND.wav --output=found.html",
        "sepssl-map --index=index --output=map.html",
        f"sepssl-train --config=separator_small --workdir=separator "
        f"--config.train.init_from=small --config.data.directory={folder}",
        f"sepssl-train --config=encoder_small --workdir=encoder "
        f"--config.train.init_from=small --config.views.separators=separator/final.keras "
        f"--config.data.directory={folder}",
    ]
