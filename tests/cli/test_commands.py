"""The commands as a user runs them, with good input to the end."""

import json
import pathlib

import keras
import numpy as np
import pytest
import soundfile

import sepssl
from sepssl.representation import Encoder, SmallBackbone
from sepssl.serialization import save_model

ROOT = pathlib.Path(__file__).parents[2]
CHECKPOINT = ROOT / "tests" / "data" / "google_mixit_small" / "model.ckpt"
SMALL = [
    "--config.train.warmup_steps=1",
    "--config.data.num_clips=8",
    "--config.data.clip_seconds=1.0",
    "--config.train.steps=2",
    "--config.train.batch_size=4",
    "--config.train.state_steps=(0,2)",
]


def tone(seconds, rate, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * rng.uniform(200, 900) * t) + 0.01 * rng.normal(size=len(t))


@pytest.fixture
def run(call):
    """A command that succeeds: what it prints."""

    def run(name, *arguments):
        result = call(name, *arguments)
        assert result.status == 0, result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """An encoder, good and bad sound files."""
    folder = tmp_path_factory.mktemp("things")
    keras.utils.set_random_seed(0)
    encoder = Encoder(SmallBackbone(32, width=8))
    encoder.build((None, None))
    save_model(encoder, folder / "encoder.keras")

    mixed = folder / "mixed"
    (mixed / "sub").mkdir(parents=True)
    soundfile.write(mixed / "a.wav", tone(1.5, 44100), 44100)
    soundfile.write(mixed / "b.flac", np.stack([tone(2.0, 8000, s) for s in (1, 2)], 1), 8000)
    soundfile.write(mixed / "sub" / "c.ogg", tone(1.2, 48000, 3), 48000)
    soundfile.write(mixed / "d.mp3", tone(3.0, 22050, 4), 22050)
    bad = folder / "bad"
    bad.mkdir()
    whole = (mixed / "a.wav").read_bytes()
    (bad / "truncated.wav").write_bytes(whole[: len(whole) // 2])
    (bad / "empty.wav").write_bytes(b"")
    (bad / "text.flac").write_text("no sound")
    soundfile.write(bad / "zero_length.wav", np.zeros(0), 16000)
    soundfile.write(bad / "silent.wav", np.zeros(16000), 16000)
    soundfile.write(bad / "nan.wav", np.full(16000, np.nan), 16000, subtype="FLOAT")
    for file in bad.iterdir():
        (mixed / file.name).write_bytes(file.read_bytes())
    return folder


@pytest.mark.slow
def test_ones_own_folder_from_training_to_embeddings(things, tmp_path, run):
    """Mixed rates, channels, formats and broken files, through every command."""
    folder = f"--config.data.directory={things}/mixed"
    printed = run(
        "train",
        f"--config={ROOT}/configs/separator_smoke.py",
        f"--workdir={tmp_path}/s",
        folder,
        *SMALL,
    )
    for name in ("truncated", "empty", "text", "zero_length", "silent", "nan"):
        assert f"{name}." in printed
    assert "skipped 6:" in printed
    separator = tmp_path / "s" / "final.keras"

    run(
        "train",
        f"--config={ROOT}/configs/encoder_smoke.py",
        f"--workdir={tmp_path}/e",
        folder,
        *SMALL,
        f"--config.views.separators={separator}",
        "--config.views.mixture_mixture=0.5",
        "--config.views.mixture_channel=0.5",
    )
    encoder = tmp_path / "e" / "final.keras"

    printed = run(
        "separate",
        f"--separator={separator}",
        f"--input={things}/mixed",
        f"--output={tmp_path}/channels",
        "--rate=input",
    )
    assert "separated 4, there already 0, skipped 6" in printed
    for name, rate in (("a", 44100), ("b", 8000), ("sub/c", 48000), ("d", 22050)):
        sound, source_rate = soundfile.read(next((things / "mixed").glob(f"{name}.*")))
        mono = sound.mean(axis=1) if sound.ndim > 1 else sound
        files = sorted((tmp_path / "channels").glob(f"{name}_channel*.wav"))
        channels = [soundfile.read(file) for file in files]
        assert len(channels) == 4
        assert {r for _, r in channels} == {rate} == {source_rate}
        np.testing.assert_allclose(sum(c for c, _ in channels), mono, atol=4 / 32768)

    run(
        "embed",
        f"--encoder={encoder}",
        f"--input={things}/mixed",
        f"--output={tmp_path}/embeddings.npz",
        "--pool=mean",
    )
    data = np.load(tmp_path / "embeddings.npz")
    assert data["names"].tolist() == ["a.wav", "b.flac", "d.mp3", "sub/c.ogg"]
    assert data["embeddings"].shape == (4, 64)
    assert np.all(np.isfinite(data["embeddings"]))
    assert np.all(data["embeddings"].std(axis=0).max() > 0)

    # One file, in a folder whose labels are not about embedding.
    (things / "mixed" / "labels.csv").write_text("filename,labels\nb.flac,something\n")
    run(
        "embed",
        f"--encoder={encoder}",
        f"--input={things}/mixed/a.wav",
        f"--output={tmp_path}/one.npz",
        f"--separator={separator}",
        "--window_seconds=1.2",
        "--hop_seconds=0.5",
        "--audible_db=-40",
    )
    one = np.load(tmp_path / "one.npz")
    assert set(one["names"].tolist()) == {"a.wav"}
    rows = one["channels"] == 0
    assert one["starts"][rows].tolist() == [0.0, 0.3]
    assert one["ends"][rows].tolist() == [1.2, 1.5]
    assert 2 < len(rows) <= 10
    embeddings = sepssl.embed_windows(encoder, things / "mixed" / "a.wav", None, 1.2, 0.5)[2]
    np.testing.assert_allclose(one["embeddings"][rows], embeddings, atol=1e-5)


def test_evaluation_of_a_labelled_folder(things, tmp_path, run, recwarn):
    rng = np.random.default_rng(0)
    for name, hz in (("low", 200), ("high", 3000)):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for i in range(25):
            t = np.arange(16000) / 16000
            sound = np.sin(2 * np.pi * hz * rng.uniform(0.8, 1.2) * t) * rng.uniform(0.1, 0.5)
            soundfile.write(tmp_path / "labelled" / name / f"{i}.wav", sound, 16000)
    table = run(
        "evaluate",
        f"--encoder={things}/encoder.keras",
        f"--dataset={tmp_path}/labelled",
        f"--output={tmp_path}/scores.json",
    )
    scores = json.loads((tmp_path / "scores.json").read_text())
    counts = [scores[f"{split}_clips"] for split in ("train", "validation", "test")]
    lines = table.splitlines()
    (header,) = (line for line in lines if "QbE mAP" in line)
    (row,) = (line for line in lines if line.startswith("encoder "))
    assert header.split("  ")[-1] == "mlp d'"
    low, high = scores["qbe_map_low"], scores["qbe_map_high"]
    assert f"{scores['qbe_map']:.3f} ({low:.3f} to {high:.3f})" in row
    assert f"2 classes; clips: {counts[0]} train, {counts[1]} validation, {counts[2]} test" in lines
    (chance,) = (line for line in lines if line.startswith("chance "))
    assert chance.split() == ["chance", f"{scores['qbe_chance']:.3f}"]
    assert f"warning: only {counts[2]} test clips; below 50" in table
    # Two pitches an octave or more apart: even random convolutions tell them apart.
    assert scores["linear_map"] > 0.95
    assert scores["qbe_map"] > scores["qbe_chance"]
    assert scores["train_clips"] + scores["validation_clips"] + scores["test_clips"] == 50
    assert not [w for w in recwarn if not issubclass(w.category, DeprecationWarning)]


def test_a_google_checkpoint_from_import_to_scores(things, tmp_path, run):
    separator = tmp_path / "google.keras"
    printed = run(
        "import_google_checkpoint",
        f"--checkpoint={CHECKPOINT}",
        f"--output={separator}",
        "--dilations_per_repeat=3",
    )
    assert "4 sources at 16000 Hz, frames of 40 samples every 20" in printed

    printed = run(
        "separate",
        f"--separator={separator}",
        f"--input={things}/mixed/a.wav",
        f"--output={tmp_path}/channels",
        "--chunk_seconds=0",
    )
    table = (tmp_path / "channels" / "summary.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in table[1:]] == [["a", str(c)] for c in (1, 2, 3, 4)]

    printed = run(
        "evaluate",
        f"--separator={separator}",
        "--dataset=scenes",
        "--num_clips=4",
        f"--output={tmp_path}/scores.json",
    )
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["scores"]) == {
        "separator",
        "mixture",
        "oracle binary mask",
        "oracle ratio mask",
    }
    for name in scores["scores"]:
        assert f"\n{name} " in printed
    assert f"MoMi: {scores['MoMi']:.1f} dB" in printed
    assert "warning: only 4 clips; below 50" in printed
