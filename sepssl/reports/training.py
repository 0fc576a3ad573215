"""What a training run has done, as sections of a page and as a page of its own."""

import json
import pathlib
import re
import shlex
from collections.abc import Mapping

import numpy as np
import soundfile

from sepssl.files import printable
from sepssl.progress import counted
from sepssl.reports.curves import Panel, curve
from sepssl.reports.found import Sound
from sepssl.reports.page import Section, write_page
from sepssl.training.checkpoints import RunFolder
from sepssl.training.monitors import read_metrics
from sepssl.training.usage import describe_usage

REPORT = "report.html"
MAX_SECONDS = 180.0  # of sound in a page, some 8 MB at 16 kHz; our choice
MIN_SECONDS = 3.0  # of a sound, so that it can be told what it is; our choice

_SEPARATOR_CURVES = (
    "Loss: lower is better. Signal-to-noise ratio: how well the two recordings of a mixture of"
    " mixtures are put together again from the separated channels."
)
_SEPARATOR_STATES = (
    "The kept states of the separator on validation clips; higher is better, and 0\u00a0dB of"
    " SI-SNRi is as good as the mixture itself. Separated sources: improvement over the mixture, by"
    " the number of sources in a clip. A source on its own: how well one channel keeps the whole of"
    " it. MoMi: improvement of recordings remixed from the channels. Step 0 is before training."
)
_ENCODER_CURVES = (
    "Losses of different objectives cannot be compared. Share of pairs found: how often the view"
    " closest to a view is of the same clip. Alignment: distance between two views of a clip, lower"
    " is closer. Uniformity: lower is more evenly spread."
)
_EXAMPLE = (
    "One clip, and the channels into which the kept states split it: first the clip itself, then"
    " the channels of every state, the earliest first."
)


def separator_curves(
    records: list[dict], heading: str = "Training of the separator"
) -> list[Section]:
    """Curves of a separator's training, and those of its kept states.

    Args:
        records: of the run's `metrics.jsonl`.
        heading: of the first section.
    """

    def panel(title: str, unit: str, keys: Mapping[str, str]) -> Panel:
        return Panel(title, unit, {label: curve(records, key) for label, key in keys.items()})

    found = re.findall(r"validation/SI-SNRi_(\d+)\b", " ".join(set().union(*records)))
    by_count = {f"{n} sources": f"validation/SI-SNRi_{n}" for n in sorted(map(int, found))}
    training = [
        panel("Training loss", "loss (dB)", {"": "loss"}),
        panel("Signal-to-noise ratio in training", "SNR (dB)", {"": "snr"}),
    ]
    validation = [
        panel("Separated sources", "SI-SNRi (dB)", by_count | {"mean": "validation/MSi"}),
        panel("A source on its own", "SI-SNR (dB)", {"": "validation/1S"}),
        panel("Remixed mixtures (MoMi)", "SI-SNRi (dB)", {"": "validation/MoMi"}),
    ]
    return [
        Section(heading, _SEPARATOR_CURVES, curves=training),
        Section("States of the separator in numbers", _SEPARATOR_STATES, curves=validation),
    ]


def encoder_curves(
    encoders: Mapping[str, list[dict]], heading: str = "Training of the encoder"
) -> list[Section]:
    """Curves of the training of encoders.

    Args:
        encoders: name of an encoder -> records of its `metrics.jsonl`; "" for the only one.
        heading: of the section.
    """

    def panel(title: str, unit: str, key: str) -> Panel:
        return Panel(title, unit, {name: curve(records, key) for name, records in encoders.items()})

    panels = [
        panel("Training loss", "loss", "loss"),
        panel("Contrastive accuracy", "share of pairs found", "contrastive_accuracy"),
        panel("Alignment", "mean squared distance", "alignment"),
        panel("Uniformity", "log mean potential", "uniformity"),
        panel("Linear classifier on labelled clips", "mAP", "validation/probe_map"),
    ]
    return [Section(heading, _ENCODER_CURVES, curves=panels)]


def state_section(folder: pathlib.Path, heading: str, text: str) -> Section:
    """The example of a separator's run: the clip, then for every kept state a row of its channels.

    A page holds `MAX_SECONDS` of sound. What would be more is cut to the stretch in which the clip
    is loudest and, where less than `MIN_SECONDS` would be left, shown for some of the states only;
    the text then says so. Files that cannot be read, or hold NaN, are left out.

    Args:
        folder: of the run.
        heading: of the section.
        text: its paragraph.
    """
    states: list[tuple[int, np.ndarray, int]] = []  # step, [samples, tracks], rate
    for file in sorted((folder / "states").glob("step-*.wav")):
        if not file.stem.removeprefix("step-").isdecimal():
            continue
        try:
            tracks, rate = soundfile.read(file, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError:
            continue  # damaged since: a report without it is worth more than none
        if np.isfinite(tracks).all():
            states.append((int(file.stem.partition("-")[2]), tracks, rate))
    if not states:
        return Section(heading, text)
    clip, rate = states[0][1][:, 0], states[0][2]
    channels, length = states[0][1].shape[1] - 1, len(clip) / rate
    most = max(2, int(MAX_SECONDS / min(length, MIN_SECONDS) - 1) // channels)
    chosen = np.unique(np.linspace(0, len(states) - 1, min(most, len(states))).round().astype(int))
    seconds = min(length, MAX_SECONDS / (1 + channels * len(chosen)))
    if seconds < length or len(chosen) < len(states):
        text += (
            f" To keep the page small: the loudest {seconds:.1f} s of {length:.1f} s, and "
            f"{len(chosen)} of {counted(len(states), 'state')}. The folder states has everything."
        )
    part = _loudest(clip, round(seconds * rate))
    rows = [[Sound("the clip", clip[part], rate)]]
    for step, tracks, rate in (states[i] for i in chosen):
        rows.append(
            [
                Sound(f"step {step}, channel {number}", channel[part], rate)
                for number, channel in enumerate(tracks.T[1:], start=1)
            ]
        )
    return Section(heading, text, sounds=rows)


def _loudest(waveform: np.ndarray, length: int) -> slice:
    """The stretch of a length with the most energy, the first of several."""
    energy = np.cumsum(np.concatenate([[0.0], np.square(waveform, dtype=np.float64)]))
    start = int(np.argmax(energy[length:] - energy[: len(energy) - length]))
    return slice(start, start + length)


def write_training_report(run: RunFolder) -> pathlib.Path:
    """Writes `report.html` into the folder of a finished run: one page that needs no other file.

    Args:
        run: the run; its metrics, its kept states and its picture of views are shown.

    Returns:
        The page.

    Raises:
        OutputError: if it cannot be written.
    """
    records = read_metrics(run.path / "metrics.jsonl")
    config = run.config
    task = config["task"]
    sections = separator_curves(records) if task == "separator" else encoder_curves({"": records})
    if task == "separator":
        sections.append(state_section(run.path, "States of the separator to hear", _EXAMPLE))
    views = run.path / "views.png"
    if views.exists():
        text = "The first pairs that the encoder has learned from: a row is a pair."
        picture = (views.read_bytes(), "Log-mel spectrograms of pairs of views")
        sections.append(Section("Views", text, picture=picture))
    sections += [
        Section("Go on", commands=_commands(run, task)),
        Section("Facts about this run", facts=_facts(run, records)),
    ]
    page = run.path / REPORT
    title = f"Training: {task}"
    write_page(page, title, [printable(str(run.path.resolve()))], sections)
    return page


def _commands(run: RunFolder, task: str) -> list[str]:
    final = printable(shlex.quote(str(run.final.resolve())))
    if task == "separator":
        return [
            f"sepssl-separate --separator={final} --input=FOLDER --output=separated",
            "sepssl-train --config=encoder_small --workdir=encoder --config.data.directory=FOLDER "
            f"--config.views.separators={final}",
            f"sepssl-export --separator={final} --output=saved_model",
        ]
    return [
        f"sepssl-embed --encoder={final} --input=FOLDER --output=index",
        "sepssl-search --index=index --query=SOUND.wav --output=found.html",
        f"sepssl-evaluate --encoder={final} --dataset=LABELLED_FOLDER --baselines "
        "--output=scores.json",
        f"sepssl-export --encoder={final} --output=saved_model",
    ]


def _facts(run: RunFolder, records: list[dict]) -> dict[str, str]:
    train, data = run.config["train"], run.config["data"]
    facts = {
        "recordings": printable(str(data["directory"])) if data["directory"] else "built-in scenes",
        "steps": f"{train['steps']}, of {train['batch_size']} clips",
        "started from": train.get("init_from") or "random weights",
        "seed": str(run.config["seed"]),
    }
    if usage := [line for line in map(describe_usage, records) if line]:
        facts["speed"] = usage[-1]
    versions = json.loads((run.path / "versions.json").read_text())
    facts["versions"] = "; ".join(
        f"from step {entry['step']}: sepssl {entry['sepssl']}, TensorFlow {entry['tensorflow']}, "
        f"Keras {entry['keras']}"
        for entry in versions
    )
    return facts
