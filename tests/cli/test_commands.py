"""The commands as a user runs them: good input to the end, bad input to one line."""

import concurrent.futures
import json
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
import soundfile

from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
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


def run(command, *arguments):
    return subprocess.run(
        [sys.executable, "-m", f"sepssl.cli.{command}", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
    )


def tone(seconds, rate, seed=0):
    rng = np.random.default_rng(seed)
    t = np.arange(int(seconds * rate)) / rate
    return 0.3 * np.sin(2 * np.pi * rng.uniform(200, 900) * t) + 0.01 * rng.normal(size=len(t))


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """Models, good and bad sound files, folders."""
    folder = tmp_path_factory.mktemp("things")
    separator = Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1), "uniform")
    separator.build((None, None))
    save_model(separator, folder / "separator.keras")
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
    (folder / "empty").mkdir()
    return folder


def test_bad_input_is_one_line_and_leaves_nothing(things, tmp_path):
    separator = f"--separator={things}/separator.keras"
    encoder = f"--encoder={things}/encoder.keras"
    smoke = "--config=configs/separator_smoke.py"
    (tmp_path / "file").write_text("a file")
    (tmp_path / "there.npz").write_text("precious")
    out = tmp_path / "out"
    cases = [
        # command, arguments, what the line says
        ("train", [smoke, f"--workdir={out}", "--config.trian.steps=3"], "trian"),
        ("train", ["--config=none.py", f"--workdir={out}"], "none.py: no such file"),
        ("train", ["--config=none.py", f"--workdir={out}", "--config.seed=1"], "none.py"),
        ("train", [smoke, f"--workdir={out}", "--config.data.sample_rate=0"], "data.sample_rate=0"),
        ("train", [smoke, f"--workdir={tmp_path}/file"], "file: is a file; expected a folder"),
        ("train", [smoke, f"--workdir={tmp_path}"], "holds files but no config.json"),
        (
            "train",
            [smoke, f"--workdir={out}", f"--config.data.directory={things}/none"],
            "none: does not exist; expected a folder",
        ),
        (
            "train",
            [smoke, f"--workdir={out}", f"--config.data.directory={tmp_path}/file"],
            "file: is a file; expected a folder",
        ),
        (
            "train",
            [smoke, f"--workdir={out}", f"--config.data.directory={things}/empty"],
            "empty: holds no sound file",
        ),
        (
            "train",
            ["--config=configs/encoder_small.py", f"--workdir={out}"],
            "views.separators is empty",
        ),
        (
            "train",
            [
                "--config=configs/encoder_small.py",
                f"--workdir={out}",
                f"--config.views.separators={things}/encoder.keras",
            ],
            "holds a Encoder; expected a .keras file that holds a sepssl Separator",
        ),
        ("train", [smoke, f"--workdir={out}", "--config.train.batch_size=7"], "batch_size=7"),
        ("train", [smoke, f"--workdir={out}", "more"], "unexpected argument 'more'"),
        (
            "separate",
            [f"--separator={things}/none.keras", f"--input={things}/mixed", f"--output={out}"],
            "none.keras: no such file",
        ),
        *(
            ("separate", [separator, f"--input={things}/bad/{name}", f"--output={out}"], says)
            for name, says in (
                ("truncated.wav", "truncated.wav: is truncated"),
                ("empty.wav", "empty.wav: is empty"),
                ("text.flac", "text.flac: is not readable as sound"),
                ("zero_length.wav", "zero_length.wav: "),
                ("silent.wav", "silent.wav: is silent"),
                ("nan.wav", "nan.wav: holds NaN"),
                ("none.wav", "none.wav: "),
            )
        ),
        (
            "separate",
            [separator, f"--input={things}/mixed/a.wav", f"--output={tmp_path}/file"],
            "file: is a file; expected a folder",
        ),
        (
            "embed",
            [encoder, f"--input={things}/mixed", f"--output={tmp_path}/there.npz"],
            "there.npz: exists already",
        ),
        ("embed", [encoder, f"--input={things}/mixed", f"--output={out}.txt"], "ends in .npz"),
        (
            "embed",
            [encoder, f"--input={things}/bad/truncated.wav", f"--output={out}.npz"],
            "truncated.wav: is truncated",
        ),
        (
            "evaluate",
            [encoder, f"--dataset={things}/empty", f"--output={out}.json"],
            "empty: holds no sound file",
        ),
        (
            "evaluate",
            [separator, "--dataset=scenes", "--baselines", f"--output={out}.json"],
            "--baselines: is for encoders",
        ),
        (
            "evaluate",
            [encoder, "--dataset=scenes", f"--data_dir={things}", f"--output={out}.json"],
            "--data_dir: is for TFDS datasets; --dataset=scenes is none",
        ),
        (
            "evaluate",
            [encoder, f"--dataset={things}/mixed", "--num_clips=9", f"--output={out}.json"],
            "--num_clips: is for scenes or separators",
        ),
        ("quickstart", [f"--workdir={tmp_path}"], "holds files but no config.json"),
        ("evaluate", ["--dataset=scenes", f"--output={out}.json"], "(encoder, separator)"),
        (
            "evaluate",
            [separator, f"--dataset={things}/empty", f"--output={out}.json"],
            "empty: holds no sound file",
        ),
        (
            "import_google_checkpoint",
            [f"--checkpoint={things}/none", f"--output={out}.keras"],
            "none: no TensorFlow checkpoint",
        ),
        (
            "import_google_checkpoint",
            [f"--checkpoint={CHECKPOINT}", f"--output={out}.h5"],
            "ends in .keras",
        ),
        (
            "curves",
            [f"--runs={tmp_path}", "--metrics=loss", f"--output={out}.png"],
            "has no metrics.jsonl",
        ),
    ]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        finished = list(pool.map(lambda case: run(case[0], *case[1]), cases))
    for (command, arguments, says), process in zip(cases, finished, strict=True):
        lines = process.stderr.strip().splitlines()
        assert process.returncode == 1, (arguments, process.stderr)
        assert len(lines) == 1, process.stderr
        assert lines[0].startswith(f"sepssl-{command.replace('_', '-')}: error: "), lines
        assert says in lines[0]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "there.npz"]
    assert (tmp_path / "there.npz").read_text() == "precious"


def test_ones_own_folder_from_training_to_embeddings(things, tmp_path):
    """Mixed rates, channels, formats and broken files, through every command."""
    folder = f"--config.data.directory={things}/mixed"
    process = run("train", "--config=configs/separator_smoke.py",
                  f"--workdir={tmp_path}/s", folder, *SMALL)  # fmt: skip
    assert process.returncode == 0, process.stderr
    for name in ("truncated", "empty", "text", "zero_length", "silent", "nan"):
        assert f"{name}." in process.stdout
    assert "skipped 6:" in process.stdout
    separator = tmp_path / "s" / "final.keras"

    process = run("train", "--config=configs/encoder_smoke.py", f"--workdir={tmp_path}/e", folder,
                  *SMALL, f"--config.views.separators={separator}",
                  "--config.views.mixture_mixture=0.5",
                  "--config.views.mixture_channel=0.5")  # fmt: skip
    assert process.returncode == 0, process.stderr
    encoder = tmp_path / "e" / "final.keras"

    process = run("separate", f"--separator={separator}", f"--input={things}/mixed",
                  f"--output={tmp_path}/channels", "--rate=input")  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "separated 4, there already 0, skipped 6" in process.stdout
    for name, rate in (("a", 44100), ("b", 8000), ("sub/c", 48000), ("d", 22050)):
        sound, source_rate = soundfile.read(next((things / "mixed").glob(f"{name}.*")))
        mono = sound.mean(axis=1) if sound.ndim > 1 else sound
        files = sorted((tmp_path / "channels").glob(f"{name}_channel*.wav"))
        channels = [soundfile.read(file) for file in files]
        assert len(channels) == 4
        assert {r for _, r in channels} == {rate} == {source_rate}
        np.testing.assert_allclose(sum(c for c, _ in channels), mono, atol=4 / 32768)

    process = run("embed", f"--encoder={encoder}", f"--input={things}/mixed",
                  f"--output={tmp_path}/embeddings.npz")  # fmt: skip
    assert process.returncode == 0, process.stderr
    data = np.load(tmp_path / "embeddings.npz")
    assert data["names"].tolist() == ["a.wav", "b.flac", "d.mp3", "sub/c.ogg"]
    assert data["embeddings"].shape == (4, 64)
    assert np.all(np.isfinite(data["embeddings"]))
    assert np.all(data["embeddings"].std(axis=0).max() > 0)

    # One file, in a folder whose labels are not about embedding.
    (things / "mixed" / "labels.csv").write_text("filename,labels\nb.flac,something\n")
    process = run("embed", f"--encoder={encoder}", f"--input={things}/mixed/a.wav",
                  f"--output={tmp_path}/one.npz")  # fmt: skip
    assert process.returncode == 0, process.stderr
    one = np.load(tmp_path / "one.npz")
    assert one["names"].tolist() == ["a.wav"]
    np.testing.assert_allclose(one["embeddings"][0], data["embeddings"][0], atol=1e-5)


def test_evaluation_of_a_labelled_folder(things, tmp_path):
    rng = np.random.default_rng(0)
    for name, hz in (("low", 200), ("high", 3000)):
        (tmp_path / "labelled" / name).mkdir(parents=True)
        for i in range(25):
            t = np.arange(16000) / 16000
            sound = np.sin(2 * np.pi * hz * rng.uniform(0.8, 1.2) * t) * rng.uniform(0.1, 0.5)
            soundfile.write(tmp_path / "labelled" / name / f"{i}.wav", sound, 16000)
    process = run("evaluate", f"--encoder={things}/encoder.keras",
                  f"--dataset={tmp_path}/labelled", f"--output={tmp_path}/scores.json")  # fmt: skip
    assert process.returncode == 0, process.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    # Two pitches an octave or more apart: even random convolutions tell them apart.
    assert scores["linear_map"] > 0.95
    assert scores["qbe_map"] > scores["qbe_chance"]
    assert scores["train_clips"] + scores["validation_clips"] + scores["test_clips"] == 50
    assert "Warning" not in process.stderr


def test_a_google_checkpoint_from_import_to_scores(things, tmp_path):
    separator = tmp_path / "google.keras"
    process = run("import_google_checkpoint", f"--checkpoint={CHECKPOINT}",
                  f"--output={separator}", "--dilations_per_repeat=3")  # fmt: skip
    assert process.returncode == 0, process.stderr
    assert "4 sources at 16000 Hz, frames of 40 samples every 20" in process.stdout

    process = run("separate", f"--separator={separator}", f"--input={things}/mixed/a.wav",
                  f"--output={tmp_path}/channels", "--chunk_seconds=0")  # fmt: skip
    assert process.returncode == 0, process.stderr
    table = (tmp_path / "channels" / "summary.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in table[1:]] == [["a", str(c)] for c in (1, 2, 3, 4)]

    process = run("evaluate", f"--separator={separator}", "--dataset=scenes", "--num_clips=4",
                  f"--output={tmp_path}/scores.json")  # fmt: skip
    assert process.returncode == 0, process.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert set(scores["scores"]) == {
        "separator",
        "mixture",
        "oracle binary mask",
        "oracle ratio mask",
    }
    for name in scores["scores"]:
        assert f"\n{name} " in process.stdout
    assert f"MoMi: {scores['MoMi']:.1f} dB" in process.stdout
