"""The quickstart: what it leaves, and that a killed run goes on."""

import contextlib
import io
import json
import pathlib
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
from sepssl.cli import quickstart as command
from sepssl.cli.main import execute, parse
from sepssl.configs.from_scratch import get_config
from sepssl.data.scenes import CLASS_NAMES
from sepssl.errors import InputError
from sepssl.pipelines.from_scratch import train_from_scratch


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
    while not list(folder.glob("encoders/*/metrics.jsonl")) and time.monotonic() < deadline:
        assert first.poll() is None, "ended before an encoder was trained"
        time.sleep(0.2)
    separator = (folder / "separator" / "final.keras").stat().st_mtime_ns
    first.send_signal(signal.SIGKILL)
    first.wait()
    second = subprocess.run(argv, capture_output=True, text=True, timeout=250, check=False)
    assert second.returncode == 0, second.stderr[-3000:]
    assert (folder / "separator" / "final.keras").stat().st_mtime_ns == separator
    assert str(folder / "report" / "index.html") in second.stdout


def test_everything_is_there_and_said(finished):
    folder, said = finished
    for name in ("report/index.html", "metrics.json", "export/saved_model",
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
    page = (folder / "report" / "index.html").read_text()
    for words in ("mixture/channel", "demonstration", "<audio"):
        assert words in page
    assert len(CLASS_NAMES) == (folder / "report" / "classes.html").read_text().count("<audio")
    sounds = list((folder / "report" / "audio").glob("*.wav"))
    mixtures = [s for s in sounds if "mixture" in s.name]
    assert mixtures
    for mixture in mixtures:
        assert np.std(soundfile.read(mixture)[0]) > 1e-3


def test_the_exported_encoder_is_one_that_was_trained(finished):
    folder, _ = finished
    best = json.loads((folder / "metrics.json").read_text())["export"]["encoder"]
    encoder = sepssl.load_encoder(
        pathlib.Path(folder) / "encoders" / best.replace("/", "_") / "final.keras"
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
