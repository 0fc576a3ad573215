"""The first look: which seconds it takes of recordings, what its page holds, what is refused."""

import base64
import csv
import io
import re

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf

from sepssl.configs.quickstart import get_config
from sepssl.data.sources import open_clips
from sepssl.errors import InputError
from sepssl.index.rows import read_rows
from sepssl.pipelines.quickstart import quickstart, write_excerpts
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis, load_separator
from sepssl.serialization import save_model

RATE = 16000


def tone(seconds, hz, rate=RATE, level=0.1):
    time = np.arange(int(seconds * rate)) / rate
    return level * np.sin(2 * np.pi * hz * time) * (0.6 + 0.4 * np.sin(2 * np.pi * 3 * time))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("quickstart") / "own recordings"
    folder.mkdir()
    for i, (rate, suffix) in enumerate(
        [(RATE, "wav"), (44100, "flac"), (8000, "wav"), (22050, "ogg"), (RATE, "flac")]
    ):
        noise = np.random.default_rng(i).normal(0, 0.01, 2 * rate)
        soundfile.write(folder / f"Ä {i}.{suffix}", tone(2, 300 * (i + 1), rate) + noise, rate)
    (folder / "broken.wav").write_bytes(b"RIFF and nothing else")
    soundfile.write(folder / "silent.wav", np.zeros(RATE), RATE)
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory, folder):
    models = tmp_path_factory.mktemp("models")
    keras.utils.set_random_seed(0)
    separator = Separator(3, STFTBasis(64, 32), TDCN(4, 6, 2, 1), "uniform")
    separator.build()
    encoder = Encoder(SmallBackbone(8, width=2))
    encoder.build()
    for name, model in (("separator", separator), ("encoder", encoder)):
        save_model(model, models / f"{name}.keras")
    config = get_config()
    config.update(input=str(folder), excerpts=6, excerpt_seconds=1.5, window_seconds=1.0, queries=1)
    for stage in ("separator", "encoder"):
        config[stage].train.update(
            init_from=str(models / f"{stage}.keras"), steps=2, batch_size=4, warmup_steps=1,
            log_every=1, state_steps=(2,),
        )  # fmt: skip
    config.separator.train.crop_seconds = 1.0
    config.encoder.views.separators = str(models / "separator.keras")
    return config


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    tf.config.run_functions_eagerly(True)
    try:
        return quickstart(config, tmp_path_factory.mktemp("run") / "first look", verbose=False)
    finally:
        tf.config.run_functions_eagerly(False)


def sounds(page):
    """(label, waveform) of every sound on a page, in order."""
    labels = re.findall("<figcaption>(.*?)</figcaption>", page)
    files = re.findall('data:audio/wav;base64,([^"]*)', page)
    assert len(labels) == len(files) > 0
    read = [soundfile.read(io.BytesIO(base64.b64decode(file)))[0] for file in files]
    return list(zip(labels, read, strict=True))


def test_an_excerpt_is_the_loudest_part(tmp_path, config):
    waveform = 1e-3 * np.random.default_rng(0).normal(size=50 * RATE)
    waveform[41 * RATE : 43 * RATE] += tone(2, 440)
    soundfile.write(tmp_path / "long.wav", waveform, RATE, "FLOAT")
    settings = config.copy_and_resolve_references()
    settings.update(excerpts=1, excerpt_seconds=2.0)
    write_excerpts(open_clips(tmp_path / "long.wav", RATE), tmp_path / "excerpts", settings)
    (file,) = (tmp_path / "excerpts").glob("*.wav")
    assert file.name == "01-long-41.0s.wav"
    found = soundfile.read(file)[0]
    np.testing.assert_allclose(found, waveform[41 * RATE : 43 * RATE], atol=1e-7)
    table = (tmp_path / "excerpts" / "excerpts.csv").read_text().splitlines()
    assert table == ["excerpt,recording,start", "01-long-41.0s.wav,long.wav,41.000"]


def test_quiet_excerpts_are_kept_and_silent_ones_listed(tmp_path, config):
    (tmp_path / "in").mkdir()
    quiet = tone(2, 440, level=1e-5)  # less than half a step of 16 bits
    soundfile.write(tmp_path / "in" / "quiet.wav", quiet, RATE, "FLOAT")
    soundfile.write(tmp_path / "in" / "silent.wav", np.zeros(RATE), RATE)
    soundfile.write(tmp_path / "in" / "short.wav", tone(0.05, 440), RATE)
    clips = open_clips(tmp_path / "in", RATE)
    write_excerpts(clips, tmp_path / "excerpts", config)
    (file,) = (tmp_path / "excerpts").glob("*.wav")
    assert np.abs(soundfile.read(file)[0]).max() == pytest.approx(1e-5, rel=0.01)
    with open(tmp_path / "excerpts" / "skipped.csv", newline="") as text:
        skipped = dict(csv.reader(text))
    assert set(skipped) == {"name", "silent.wav", "short.wav"}
    assert "expected sound" in skipped["silent.wav"]


def test_several_excerpts_of_one_recording_do_not_overlap(tmp_path, config):
    waveform = np.random.default_rng(0).normal(0, 0.1, 60 * RATE)
    soundfile.write(tmp_path / "long.wav", waveform, RATE)
    write_excerpts(open_clips(tmp_path / "long.wav", RATE), tmp_path / "excerpts", config)
    starts = sorted(
        float(re.search(r"-([\d.]+)s\.wav", file.name)[1])
        for file in (tmp_path / "excerpts").glob("*.wav")
    )
    assert len(starts) == config.excerpts
    assert np.diff(starts).min() >= config.excerpt_seconds
    assert all(10 * i <= start <= 10 * (i + 1) for i, start in enumerate(starts))


def test_the_page_plays_excerpts_and_channels_that_add_up_to_them(finished, config):
    excerpts = sorted(finished.recordings.glob("*.wav"))
    assert len(excerpts) == 5  # neither the broken nor the silent one
    separator = load_separator(config.separator.train.init_from)
    played = sounds(finished.page.read_text())
    label, mixture = played[0]
    (file,) = [file for file in excerpts if file.stem == label]
    waveform = soundfile.read(file)[0].astype(np.float32)
    np.testing.assert_allclose(mixture, waveform, atol=2 / 32767)
    channels = separator.separate(waveform, RATE)
    for label, channel in played[1:4]:
        number, level = re.fullmatch(r"channel (\d), (-?\d+) dB", label).groups()
        expected = channels[int(number) - 1]
        np.testing.assert_allclose(channel, expected, atol=2 / 32767)
        assert 10 * np.log10(np.mean(expected**2) / np.mean(waveform**2)) == pytest.approx(
            int(level), abs=0.51
        )


def test_what_is_found_is_nearest(finished):
    rows = read_rows(finished.index)
    caption = r">(?:searched for|\d\. score (-?[\d.]+)): (\S+) at ([\d.]+) s, \w+(?: (\d))?<"
    query, *hits = re.findall(caption, finished.page.read_text())
    names = [name.removesuffix(".wav") for name in rows.names]

    def row(name, start, channel):
        same = (rows.recording == names.index(name)) & np.isclose(rows.starts, float(start))
        return np.flatnonzero(same & (rows.channels == int(channel or 0)))[0]

    number = row(query[1], query[2], query[3])
    cosines = rows.vectors @ rows.vectors[number]
    best = {name: -1.0 for name in names}
    for place, cosine in zip(rows.recording, cosines, strict=True):
        best[names[place]] = max(best[names[place]], float(cosine))
    del best[query[1]]
    expected = sorted(best, key=lambda name: -best[name])[:3]
    assert list(dict.fromkeys(hit[1] for hit in hits)) == expected
    assert float(hits[0][0]) == pytest.approx(best[expected[0]], abs=0.006)


def test_both_models_were_trained_on(finished, config):
    for stage, folder in (("separator", finished.separator), ("encoder", finished.encoder)):
        before = keras.saving.load_model(config[stage].train.init_from)
        after = keras.saving.load_model(folder / "final.keras")
        moved = [
            np.abs(new - old).max()
            for new, old in zip(after.get_weights(), before.get_weights(), strict=True)
        ]
        assert 0 < max(moved) < 1
    page = finished.page.read_text()
    assert "A moment of training" in page
    assert [label for label, _ in sounds(page)][-1].startswith("trained on: channel")


def test_a_complete_run_is_left_alone_and_other_recordings_are_refused(finished, config, folder):
    files = sorted((path, path.stat().st_mtime_ns) for path in finished.root.rglob("*"))
    assert quickstart(config, finished.root, verbose=False) == finished
    assert sorted((path, path.stat().st_mtime_ns) for path in finished.root.rglob("*")) == files
    soundfile.write(folder / "new.wav", tone(2, 500), RATE)
    try:
        with pytest.raises(InputError, match="recordings"):
            quickstart(config, finished.root, verbose=False)
    finally:
        (folder / "new.wav").unlink()


def test_the_index_names_its_models(finished, config):
    models = read_rows(finished.index).models
    for stage in ("encoder", "separator"):
        assert models[stage] == config[stage].train.init_from


def test_one_short_recording_is_shown_and_not_trained_on(tmp_path, config, eager, monkeypatch):
    soundfile.write(tmp_path / "one.wav", tone(1.2, 440), RATE)
    settings = config.copy_and_resolve_references()
    settings.input = str(tmp_path)
    # A folder of the run within that of the recordings; both named in another way when repeated.
    paths = quickstart(settings, tmp_path / "run", verbose=False)
    before = paths.page.stat().st_mtime_ns
    monkeypatch.chdir(tmp_path)
    settings.input = "."
    assert quickstart(settings, "run", verbose=False) == paths
    assert paths.page.stat().st_mtime_ns == before
    page = paths.page.read_text()
    assert "A moment of training" not in page
    assert not paths.encoder.exists()
    assert sounds(page)[0][0] == "01-one-0.0s"


def test_nothing_readable_is_an_error_and_leaves_no_excerpts(tmp_path, config):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    settings = config.copy_and_resolve_references()
    settings.input = str(tmp_path / "silent.wav")
    with pytest.raises(InputError, match=r"no recording could be read; the last: .*silent"):
        quickstart(settings, tmp_path / "run", verbose=False)
    assert not (tmp_path / "run" / "recordings").exists()
