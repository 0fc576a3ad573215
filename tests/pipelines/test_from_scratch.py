"""The quickstart: what it leaves, and that a killed run goes on."""

import base64
import contextlib
import io
import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import soundfile
import tensorflow as tf
from absl import flags

import sepssl
from sepssl.audio.spectrogram import spectrogram_db
from sepssl.cli import quickstart as command
from sepssl.cli.main import execute, parse
from sepssl.configs.from_scratch import get_config
from sepssl.data.scenes import CLASS_NAMES
from sepssl.errors import InputError
from sepssl.pipelines.from_scratch import train_from_scratch
from sepssl.reports.training import write_training_report
from sepssl.training.checkpoints import RunFolder


def smaller(preset):
    """The preset `smoke`, made smaller; the command runs it as it is in a slow test."""
    assert preset == "smoke"
    config = get_config(preset)
    for stage in (config.separator, config.encoder):
        stage.data.num_clips = 16
        stage.train.update(steps=4, batch_size=4, log_every=2, warmup_steps=1)
    config.separator.data.num_validation = 2
    config.separator.train.update(crop_seconds=1.0, state_steps=(0, 2, 4))
    config.separator.separator.update(
        bottleneck_channels=8, conv_channels=12, dilations_per_repeat=2
    )
    config.encoder.train.state_steps = (4,)
    config.encoder.encoder.update(embedding_size=16, width=4)
    config.evaluation.clips.update(train=30, validation=20, test=30)
    config.view_states = (4,)
    return config


@pytest.fixture(scope="module")
def finished(forked_exports, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    argv = ["sepssl-quickstart", f"--workdir={folder}", "--from_scratch", "--preset=smoke"]
    values = flags.FlagValues()
    with contextlib.redirect_stdout(io.StringIO()) as said, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sepssl.configs.from_scratch.get_config", smaller)
        parse(command, values, argv)
        assert execute(command, values) == 0
    return folder, said.getvalue()


@pytest.mark.slow
def test_killed_and_continued(tmp_path):
    folder = tmp_path / "run"
    argv = [
        sys.executable,
        "-m",
        command.__name__,
        f"--workdir={folder}",
        "--from_scratch",
        "--preset=smoke",
    ]
    first = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 200
    while not list(folder.glob("encoder/*/metrics.jsonl")) and time.monotonic() < deadline:
        assert first.poll() is None, "ended before an encoder was trained"
        time.sleep(0.2)
    separator = (folder / "separator" / "final.keras").stat().st_mtime_ns
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = subprocess.run(argv, capture_output=True, text=True, timeout=250, check=False)
    assert second.returncode == 0, second.stderr[-3000:]
    assert (folder / "separator" / "final.keras").stat().st_mtime_ns == separator
    assert str(folder / "index.html") in second.stdout


def test_everything_is_there_and_said(finished):
    folder, said = finished
    for name in ("index.html", "metrics.json", "export/saved_model",
                 "export/tflite/encoder.tflite", "separator/final.keras"):  # fmt: skip
        assert (folder / name).exists()
        assert str(folder / name) in said
    assert len(list((folder / "separator" / "states").glob("*.keras"))) == 3
    assert not (folder / "cache").exists()
    record = json.loads((folder / "metrics.json").read_text())
    assert list(record["results"]) == [
        "log-mel statistics", "untrained encoder", "mixture/mixture", "mixture/channel"
    ]  # fmt: skip
    for row in record["results"].values():
        assert 0 < row["linear_map_low"] < row["linear_map"] < row["linear_map_high"] < 1
    for check in ("saved_model", "tflite"):
        assert record["export"][check]["cosine"] > 0.9999


def test_the_report_shows_and_plays(finished):
    folder, _ = finished
    page = (folder / "index.html").read_text()
    for words in ("mixture/channel", "demonstration", "Share of pairs found"):
        assert words in page
    assert page.count("<svg") == 8  # of a separator, its states and the encoders
    labels = re.findall("<figcaption>(.*?)</figcaption>", page)
    files = re.findall('data:audio/wav;base64,([^"]*)', page)
    sounds = [soundfile.read(io.BytesIO(base64.b64decode(file)))[0] for file in files]
    played = list(zip(labels, sounds, strict=True))
    assert set(CLASS_NAMES) <= set(labels)
    for label, sound in played:
        if label == "the clip" or ": " in label:
            assert np.std(sound) > 1e-3, label
    # The states of the separator: channels that add up to the clip, scaled alike in a row.
    clip = played[labels.index("the clip")][1]
    for step in (0, 2, 4):
        channels = [sound for label, sound in played if label.startswith(f"step {step}, ")]
        assert len(channels) == 4
        total = np.sum(channels, axis=0)
        scale = np.dot(total, clip) / np.dot(clip, clip)
        np.testing.assert_allclose(total, scale * clip, atol=1e-3)


def test_the_exported_encoder_is_one_that_was_trained(finished):
    folder, _ = finished
    best = json.loads((folder / "metrics.json").read_text())["export"]["encoder"]
    encoder = sepssl.load_encoder(
        pathlib.Path(folder) / "encoder" / best.replace("/", "_") / "final.keras"
    )
    waveform = np.random.default_rng(0).normal(size=(2, 20000)).astype(np.float32) * 0.1
    card = json.loads((folder / "export" / "saved_model" / "card.json").read_text())
    assert card["training"][0]["config"]["task"] == "encoder"
    assert card["training"][0]["metrics"]["loss"] > 0
    loaded = tf.saved_model.load(str(folder / "export" / "saved_model"))
    np.testing.assert_allclose(loaded(waveform), encoder(waveform), atol=1e-4)


def test_a_complete_run_is_left_alone_and_another_one_refused(finished, capsys):
    folder, _ = finished
    files = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    assert train_from_scratch(smaller("smoke"), folder).root == folder
    assert "complete already" in capsys.readouterr().out
    train_from_scratch(smaller("smoke"), folder, verbose=False)
    assert capsys.readouterr().out == ""
    with pytest.raises(InputError, match="expected the same configuration"):
        train_from_scratch(get_config("default"), folder)
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == files


def run_of(folder):
    return RunFolder(folder, json.loads((folder / "config.json").read_text()), verbose=False)


def test_a_stage_has_a_report_of_its_own(finished, tmp_path):
    folder, _ = finished
    for name in ("separator", "encoder/mixture_channel"):
        copied = shutil.copytree(folder / name, tmp_path / name)
        page = write_training_report(run_of(copied))
        assert page == copied / "report.html"
        text = page.read_text()
        assert not re.search(r'(src|href)="(?!data:|#)', text)  # self-contained
        assert str(copied / "final.keras") in text
        assert "from step 0: sepssl" in text
    assert text.count("data:image/png") == 1  # views
    sounds = re.findall(
        'data:audio/wav;base64,([^"]*)', (tmp_path / "separator" / "report.html").read_text()
    )
    assert len(sounds) == 1 + 3 * 4  # the clip, and the channels of three states


def test_tensorboard_gets_sounds_and_spectrograms(finished):
    folder, _ = finished
    (events,) = (folder / "separator" / "tensorboard").glob("events*")
    found = {}
    for record in tf.compat.v1.train.summary_iterator(str(events)):
        for value in record.summary.value:
            found[value.tag, record.step] = tf.make_ndarray(value.tensor)
    kept, rate = soundfile.read(folder / "separator" / "states" / "step-0000002.wav")
    for track, name in enumerate(["clip", *(f"channel {n}" for n in (1, 2, 3, 4))]):
        heard, heard_rate = soundfile.read(io.BytesIO(found[name, 2][0, 0]))
        assert heard_rate == rate
        np.testing.assert_allclose(heard, kept[:, track], atol=1 / 32767)
        picture = tf.io.decode_png(found[f"{name}, spectrogram", 2][2]).numpy()
        level = spectrogram_db(kept[:, track], rate)
        assert picture.shape == (*level.shape, 3)
        # The louder, the brighter; the highest frequency at the top.
        brightness = picture.astype(float).sum(axis=-1)[::-1]
        assert np.corrcoef(brightness.ravel(), level.ravel())[0, 1] > 0.8
    (events,) = (folder / "encoder" / "mixture_channel" / "tensorboard").glob("events*")
    tags = [
        v.tag for r in tf.compat.v1.train.summary_iterator(str(events)) for v in r.summary.value
    ]
    assert "views" in tags


def test_a_group_of_processes_is_refused(tmp_path):
    config = smaller("smoke")
    config.separator.train.strategy = "multiworker"
    with pytest.raises(InputError, match=r"train\.strategy='multiworker': a group trains one"):
        train_from_scratch(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
