import collections
import csv
import dataclasses
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
import soundfile

import sepssl
from sepssl.audio.log_mel import LogMel
from sepssl.configs import encoder_smoke
from sepssl.data.channel_shards import ChannelShards
from sepssl.data.segments import Segments
from sepssl.data.sources import open_clips
from sepssl.data.store import store_clips
from sepssl.errors import InputError
from sepssl.index.rows import read_rows
from sepssl.index.search import WindowIndex
from sepssl.pipelines import corpus_shards
from sepssl.pipelines.corpus import Corpus, ShardResult, claim
from sepssl.pipelines.corpus_engines import beam_options, run_corpus, run_locally
from sepssl.pipelines.corpus_shards import process_shard
from sepssl.pipelines.embed import embed_recordings
from sepssl.pipelines.separate import separate_recordings
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.serialization import save_model
from sepssl.training.encoder import load_separators, train_encoder

pytestmark = pytest.mark.usefixtures("eager")
RATE = 16000
ROWS = ["a.wav,,", "broken.wav,,", "sub/b.flac,,", "c.ogg,,", "a.wav,0.5,0.75", "gone.wav,,"]


def noise(seconds, seed, rate=RATE):
    return 0.1 * np.random.default_rng(seed).normal(size=round(seconds * rate))


def write_manifest(path, rows):
    path.write_text("\n".join(["path,start,duration", *rows, ""]))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Recordings of several formats, some that cannot be used, a manifest, models."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "sub").mkdir()
    soundfile.write(folder / "a.wav", noise(1.5, 0), RATE)
    soundfile.write(folder / "sub" / "b.flac", np.stack([noise(1, 1, 44100)] * 2, 1), 44100)
    soundfile.write(folder / "c.ogg", noise(1.2, 2), RATE)
    (folder / "broken.wav").write_bytes(b"RIFF")
    write_manifest(folder / "manifest.csv", ROWS)
    keras.utils.set_random_seed(0)
    separator = Separator(3, STFTBasis(256, 128), TDCN(4, 8, 1, 1), "uniform")
    encoder = Encoder(SmallBackbone(8, width=2))
    for model, name in ((separator, "separator"), (encoder, "encoder")):
        model.build((None, None))
        save_model(model, folder / f"{name}.keras")
    return folder


def corpus_of(world, output, task="separate", **changes):
    models = {"separator": str(world / "separator.keras")} if task == "separate" else {}
    models |= {"encoder": str(world / "encoder.keras")} if task == "embed" else {}
    values = {"manifest": str(world / "manifest.csv"), "shard_size": 2} | models | changes
    return Corpus(task, output=str(output), **values)


def run(corpus, **options):
    return run_corpus(corpus, verbose=False, **options)


def table(path):
    with open(path, newline="") as text:
        return list(csv.DictReader(text))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_channels_in_flac_are_those_of_separate(world, tmp_path):
    loud = 20 * noise(1, 3)
    soundfile.write(tmp_path / "loud.wav", loud, RATE, subtype="FLOAT")
    manifest = write_manifest(tmp_path / "m.csv", [f"{world}/{r}" for r in ROWS] + ["loud.wav,,"])
    report = run(corpus_of(world, tmp_path / "out", manifest=str(manifest)))
    assert (report.recordings, report.done, report.made, report.found) == (7, 5, 4, 0)
    assert report.seconds == pytest.approx(1.5 + 1 + 1.2 + 0.75 + 1)
    separator = sepssl.load_separator(world / "separator.keras")
    separate_recordings(separator, open_clips(manifest, RATE), tmp_path / "wavs", verbose=False)
    summary = table(tmp_path / "wavs" / "summary.csv")
    rows = table(tmp_path / "out" / "channels.csv")
    assert [r["level_db"] for r in summary] == [f"{float(r['level_db']):.1f}" for r in rows]
    assert [r["active"] for r in summary] == [f"{float(r['active']):.3f}" for r in rows]
    assert [float(r["offset"]) for r in rows[9:12]] == [0.5] * 3
    for listed, made in zip(rows, summary, strict=True):
        name = f"{made['recording']}_channel{made['channel']}.wav"
        expected = soundfile.read(tmp_path / "wavs" / name)[0]
        found = soundfile.read(tmp_path / "out" / listed["path"])[0]
        gain = 10 ** (float(listed["gain_db"]) / 20)
        if "loud" in listed["recording"]:  # 24 bits, after the loudest channel was made to fit
            assert gain < 1
            np.testing.assert_allclose(found / gain, expected, atol=2**-23 / gain)
        else:
            assert gain == 1
            np.testing.assert_array_equal(found, expected)
    failed = table(tmp_path / "out" / "failed.csv")
    assert [pathlib.Path(r["path"]).name for r in failed] == ["broken.wav", "gone.wav"]
    assert "not readable as sound" in failed[0]["reason"]
    assert "does not exist" in failed[1]["reason"]


def test_croissant_describes_the_channels(world, tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant")
    for format, column in (("flac", "channel"), ("log_mel", "first_frame")):
        corpus = corpus_of(world, tmp_path / format, format=format)
        run(corpus)
        dataset = mlcroissant.Dataset(tmp_path / format / "croissant.json")
        assert not dataset.metadata.ctx.issues.errors
        found = list(dataset.records("channels"))
        rows = table(tmp_path / format / "channels.csv")
        assert [record["channels/path"].decode() for record in found] == [r["path"] for r in rows]
        assert [record["channels/offset"] for record in found] == [float(r["offset"]) for r in rows]
        numbers = [int(row[column]) for row in rows]
        assert [record[f"channels/{column}"] for record in found] == numbers
        (listed,) = [node for node in dataset.metadata.distribution if node.id == "files"]
        there = (tmp_path / format).glob(listed.includes[0])
        names = {path.relative_to(tmp_path / format).as_posix() for path in there}
        assert names == {row["path"] for row in rows}


def test_channels_in_opus_sound_alike(world, tmp_path):
    t = np.arange(RATE) / RATE
    (tmp_path / "in").mkdir()
    soundfile.write(tmp_path / "in" / "tone.wav", 0.3 * np.sin(2 * np.pi * 440 * t), RATE)
    corpus = corpus_of(world, tmp_path / "opus", manifest=str(tmp_path / "in"), format="opus")
    assert run(corpus).done == 1
    run(dataclasses.replace(corpus, output=str(tmp_path / "flac"), format="flac"))
    expected = soundfile.read(tmp_path / "flac" / "shards" / "00000" / "tone_channel1.flac")[0]
    found, rate = soundfile.read(tmp_path / "opus" / "shards" / "00000" / "tone_channel1.opus")
    assert (rate, len(found)) == (RATE, len(expected))
    assert np.sum(expected**2) > 50 * np.sum((found - expected) ** 2)  # 17 dB


def test_log_mel_frames_of_a_recording_and_its_channels(world, tmp_path):
    corpus = corpus_of(world, tmp_path / "mel", format="log_mel")
    assert run(corpus).done == 4
    run(dataclasses.replace(corpus, output=str(tmp_path / "flac"), format="flac"))
    channels = collections.defaultdict(list)
    for row in table(tmp_path / "flac" / "channels.csv"):
        sound = soundfile.read(tmp_path / "flac" / row["path"], dtype="float32")[0]
        channels[row["recording"], row["offset"]].append(sound)
    rows = table(tmp_path / "mel" / "channels.csv")
    assert len(rows) == len(channels) == 4
    for row in rows:
        waveforms = np.stack(channels[row["recording"], row["offset"]])
        waveforms = np.concatenate([waveforms.sum(0, keepdims=True), waveforms])
        expected = np.asarray(LogMel().spectrogram(waveforms)).swapaxes(0, 1)
        stored = np.load(tmp_path / "mel" / row["path"], mmap_mode="r")
        assert stored.dtype == np.float16
        first = int(row["first_frame"])
        found = stored[first : first + int(row["frames"])]
        np.testing.assert_allclose(found, expected, atol=0.02)  # of 16 bits, both


def same_rows(first, second):
    first, second = read_rows(first), read_rows(second)
    assert (first.names, first.paths) == (second.names, second.paths)
    for name in ("recording", "starts", "ends", "channels", "levels", "vectors"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), name)
    assert (first.settings, first.models) == (second.settings, second.models)


def test_an_index_is_that_of_embed(world, tmp_path):
    models = {kind: str(world / f"{kind}.keras") for kind in ("encoder", "separator")}
    corpus = corpus_of(world, tmp_path / "out", "embed", audible_db=-20.0, **models)
    report = run(corpus)
    assert (report.done, len(report.failed)) == (4, 2)
    encoder = sepssl.load_encoder(world / "encoder.keras")
    separator = sepssl.load_separator(world / "separator.keras")

    def embed(output):
        clips = open_clips(world / "manifest.csv", RATE)
        return embed_recordings(
            encoder, clips, output, separator, audible_db=-20.0, models=models, verbose=False
        )

    embed(tmp_path / "index")
    same_rows(tmp_path / "out" / "index", tmp_path / "index")
    assert set(read_rows(tmp_path / "index").channels) == {0, 1, 2, 3}
    # A shard is an index of its own, and all of them can be added to as any.
    shard = WindowIndex(tmp_path / "out" / "shards" / "00001" / "index")
    row = next(row for row in shard.rows() if row.recording == "c.ogg")
    found = WindowIndex(tmp_path / "out" / "index").search(shard.vector(row.row), 1)[0]
    assert found._replace(row=0, score=0) == row._replace(row=0, score=0)
    again = embed(tmp_path / "out" / "index")
    assert (again.embedded, again.found) == (0, 4)
    same_rows(tmp_path / "out" / "index", tmp_path / "index")


def test_a_killed_run_goes_on_with_what_is_missing(world, tmp_path):
    corpus = corpus_of(world, tmp_path / "out", shard_size=1)
    shards, _ = corpus.shards()
    straight = dataclasses.replace(corpus, output=str(tmp_path / "straight"))
    assert run(straight).made == 6

    def killed(number):
        if number == 3:
            raise KeyboardInterrupt

    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(InputError, match="is not empty"):
        run(corpus)
    (tmp_path / "out" / "mine").unlink()
    (tmp_path / "out" / ".corpus.deadbeef.tmp.json").touch()  # a kill as the first file is written
    claim(corpus, shards)
    with pytest.raises(KeyboardInterrupt):
        run_locally(corpus, shards, 1, killed)
    # What killed processes leave.
    (tmp_path / "out" / "shards" / ".00004.deadbeef.tmp").mkdir()
    (tmp_path / "out" / ".index.deadbeef.tmp").mkdir()
    (tmp_path / "out" / ".channels.deadbeef.tmp.csv").touch()
    status = {n: os.stat(corpus.folder(shards[n]) / "shard.json") for n in range(4)}
    report = run(corpus)
    assert (report.made, report.found, report.done) == (2, 4, 4)
    for number, before in status.items():
        now = os.stat(corpus.folder(shards[number]) / "shard.json")
        assert (now.st_ino, now.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert not list((tmp_path / "out").rglob("*.tmp*"))
    assert contents(tmp_path / "out" / "shards") == contents(tmp_path / "straight" / "shards")
    for name in ("channels.csv", "failed.csv"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_two_processes_at_the_same_shard(world, tmp_path):
    corpus = corpus_of(world, tmp_path, "embed")
    shard, barrier, results = corpus.shards()[0][1], threading.Barrier(2), []

    def make():
        barrier.wait()
        results.append(process_shard(corpus, shard))

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(result is None for result in results) == [False, True]
    assert [p.name for p in (tmp_path / "shards").iterdir()] == ["00001"]
    assert process_shard(corpus, shard) is None


def test_another_manifest_model_or_settings_are_refused(world, tmp_path):
    corpus = corpus_of(world, tmp_path / "out", "embed")
    broken = write_manifest(tmp_path / "m.csv", [f"{world}/broken.wav,,", "gone.wav,,"])
    nothing = dataclasses.replace(corpus, manifest=str(broken), output=str(tmp_path / "nothing"))
    with pytest.raises(InputError, match=r"m.csv: none of 2 recordings .*not readable"):
        run(nothing)
    assert "does not exist" in table(tmp_path / "nothing" / "failed.csv")[1]["reason"]
    run(corpus)
    other = tmp_path / "other.keras"
    other.write_bytes((world / "encoder.keras").read_bytes())
    fewer = write_manifest(world / "fewer.csv", ROWS[:2])
    for changes, expected in (
        ({"encoder": str(other)}, "made with encoder=encoder-.*, now other-"),
        ({"hop_seconds": 0.5}, "made with hop_seconds=the default, now 0.5"),
        ({"shard_size": 3}, "made with shard_size=2, now 3"),
        ({"allow_truncated": True}, "made with truncated=skip, now keep"),
        ({"manifest": str(fewer)}, "made of other recordings or parts than are in .*fewer"),
    ):
        with pytest.raises(InputError, match=f"{tmp_path / 'out'}: holds a corpus {expected}"):
            run(dataclasses.replace(corpus, **changes))
    begun = dataclasses.replace(corpus, output=str(tmp_path / "begun"))
    (tmp_path / "text.keras").write_text("no model")
    with pytest.raises(InputError, match="could not be loaded"):
        run(dataclasses.replace(begun, encoder=str(tmp_path / "text.keras")))
    with pytest.raises(InputError, match=r"window_seconds=0.1: expected"):
        run(dataclasses.replace(begun, window_seconds=0.1))
    for changes, expected in (
        ({"format": "opus", "speed": 0.5}, "format=opus: is not for channels at 32000 Hz"),
        ({"speed": 0.3}, "speed=0.3: channels at 16000 Hz would have"),
        ({"speed": 0.01}, "format=flac: is not for channels at 1600000 Hz"),
    ):
        with pytest.raises(InputError, match=expected):
            run(corpus_of(world, tmp_path / "begun", **changes))
    assert run(begun).done == 4  # where no shard is done, nothing stands in the way


def test_shards_of_files_that_have_changed_are_made_anew(world, tmp_path):
    for name in ("a", "b", "c"):
        soundfile.write(tmp_path / f"{name}.wav", noise(1, 5), RATE)
    manifest = write_manifest(tmp_path / "m.csv", ["a.wav,,", "b.wav,,", "c.wav,,", "d.wav,,"])
    changes = {"manifest": str(manifest), "shard_size": 1}
    channels = corpus_of(world, tmp_path / "channels", **changes)
    index = corpus_of(world, tmp_path / "index", "embed", **changes)
    assert [run(channels).done, run(index).done] == [3, 3]
    os.utime(tmp_path / "a.wav")  # touched, not changed
    (tmp_path / "c.wav").unlink()  # what was made of it stays
    assert run(channels).made == 0
    soundfile.write(tmp_path / "b.wav", noise(1, 6), RATE)
    soundfile.write(tmp_path / "d.wav", noise(1, 7), RATE)
    report = run(channels)
    assert (report.made, report.done, len(report.failed)) == (2, 4, 0)
    assert [pathlib.Path(file).name for file in report.changed] == ["b.wav", "d.wav"]
    says = r"b.wav: has changed since .*expected, from now on, sepssl-embed"
    with pytest.raises(InputError, match=says):
        run(index)
    shutil.rmtree(tmp_path / "index" / "shards" / "00001")
    shutil.rmtree(tmp_path / "index" / "shards" / "00003")
    with pytest.raises(InputError, match=r"made of all shards, of which 2 are missing, .*00001"):
        run(index)
    shutil.rmtree(tmp_path / "index" / "index")
    assert run(index).made == 2
    assert read_rows(tmp_path / "index" / "index").names == ["a.wav", "b.wav", "c.wav", "d.wav"]


def test_a_file_written_to_while_its_shard_is_made_has_changed(world, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "a.wav", noise(1, 5), RATE)
    manifest = write_manifest(tmp_path / "m.csv", ["a.wav,,"])
    corpus = corpus_of(world, tmp_path / "channels", manifest=str(manifest))
    make = corpus_shards._made

    def meanwhile(*arguments):
        result = make(*arguments)
        soundfile.write(tmp_path / "a.wav", noise(1, 6), RATE)
        return result

    with monkeypatch.context() as patch:
        patch.setattr(corpus_shards, "_made", meanwhile)
        run(corpus)
    assert [run(corpus).made for _ in range(2)] == [1, 0]


def test_training_reads_the_channels_where_they_lie(world, tmp_path, call):
    recordings = tmp_path / "my recordings"
    recordings.mkdir()
    for i in range(3):
        soundfile.write(recordings / f"{i}.wav", noise(1.2 + i, i), RATE)
    (recordings / "broken.wav").write_bytes(b"RIFF")
    soundfile.write(recordings / "half.wav", np.r_[noise(2, 9), np.zeros(2 * RATE)], RATE)
    corpus = corpus_of(
        world,
        tmp_path / "corpus",
        manifest=str(recordings),
        format="store",
        clip_seconds=1.5,
    )
    report = run(corpus)
    assert (report.done, len(report.failed), len(report.notes)) == (4, 1, 1)
    assert "half.wav#2.67: is silent" in report.notes[0]
    before = contents(tmp_path / "corpus")
    # The same by the command, which names the one that trains on it, as a shell takes it.
    flags = {"separator": world / "separator.keras", "output": tmp_path / "corpus"}
    flags |= {"manifest": recordings, "format": "store", "clip_seconds": 1.5, "shard_size": 2}
    result = call("corpus", "separate", *(f"--{name}={value}" for name, value in flags.items()))
    assert result.status == 0, result.stderr
    assert shlex.split(result.stdout.splitlines()[-1].removeprefix("next: ")) == [
        *("sepssl-train", "--config=encoder_small", f"--config.data.directory={recordings}"),
        "--config.data.clip_seconds=1.5",
        *(f"--config.views.separators={tmp_path / 'corpus'}", "--workdir=RUN"),
    ]
    config = encoder_smoke.get_config()
    config.train.update(steps=2, batch_size=4, log_every=1, state_steps=(2,), probe_clips=0)
    config.data.update(directory=str(recordings), clip_seconds=1.5)
    config.encoder.update(embedding_size=16, width=2)
    config.views.update(mixture_mixture=0.0, mixture_channel=1.0, max_distance_seconds=0.5)

    def trained(name, separators):
        config.views.separators = separators
        return train_encoder(config, tmp_path / name, verbose=False)

    own = trained("own", str(world / "separator.keras"))
    read = trained("read", str(tmp_path / "corpus"))
    assert list(own.path.glob("channels-*"))
    assert not list(read.path.glob("channels-*"))
    assert contents(tmp_path / "corpus") == before
    losses = [
        [json.loads(line)["loss"] for line in (r.path / "metrics.jsonl").read_text().splitlines()]
        for r in (own, read)
    ]
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
    assert (own.path / "config.json").read_text() == (read.path / "config.json").read_text()
    soundfile.write(recordings / "new.wav", noise(1.5, 8), RATE)
    parts = store_clips(Segments(open_clips(recordings, RATE), 1.5), tmp_path, verbose=False)
    with pytest.raises(InputError, match=r"lacks the channels of 1 clip of .*: new\.wav"):
        ChannelShards(tmp_path / "corpus", parts)


def test_corpora_that_training_does_not_read(world, tmp_path):
    soundfile.write(tmp_path / "silent.wav", np.zeros(RATE), RATE)
    rows = [f"{world}/c.ogg,,", "silent.wav,,", f"{world}/broken.wav,,"]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    for format in ("store", "flac"):
        corpus = corpus_of(world, tmp_path / format, manifest=str(manifest), format=format)
        report = run(dataclasses.replace(corpus, shard_size=1))
        assert report.done == 1
        assert "silent.wav: is silent" in report.failed[0][2]
        assert not list((tmp_path / format / "shards" / "00001").glob("clips-*"))
    config = encoder_smoke.get_config()
    config.views.update(mixture_mixture=0.0, mixture_channel=1.0, separators=f"{tmp_path}/store")
    config.data.clip_seconds = 2.0
    with pytest.raises(InputError, match=r"clip_seconds=4.0, but data.clip_seconds=2.0"):
        load_separators(config)
    config.views.online = True
    with pytest.raises(InputError, match="holds stored channels; expected"):
        load_separators(config)
    config.views.update(online=False, separators=f"{tmp_path}/flac")
    with pytest.raises(InputError, match="format=flac, which training does not read"):
        load_separators(config)


@pytest.mark.parametrize("task", ["separate", "embed"])
def test_a_beam_pipeline_makes_the_same(world, tmp_path, task):
    pytest.importorskip("apache_beam")
    corpus = corpus_of(world, tmp_path / "beam", task)
    report = run(corpus, options=["--runner=DirectRunner"])
    local = run(dataclasses.replace(corpus, output=str(tmp_path / "local")))
    assert dataclasses.replace(report, result="") == dataclasses.replace(local, result="")
    if task == "embed":
        same_rows(tmp_path / "beam" / "index", tmp_path / "local" / "index")
    else:
        assert contents(tmp_path / "beam" / "shards") == contents(tmp_path / "local" / "shards")
    assert run(corpus, options=["--runner=DirectRunner"]).made == 0


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--runner=DirectRunner", "--direct_num_workes=2"], "--direct_num_workes: is not an opt"),
        (["--runner=DirectRunner", "--direct_num_workers=x"], "_workers: invalid int value: 'x'"),
        (["--runner=sepssl.None"], "--runner=sepssl.None: cannot be loaded"),
    ],
)
def test_options_that_beam_does_not_know(options, says):
    pytest.importorskip("apache_beam")
    with pytest.raises(InputError, match=says):
        beam_options(options)
    assert beam_options(["--runner=FlinkRunner", "--checkpointing_interval=9"])


def test_beam_is_asked_for_in_one_line(world, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.options.pipeline_options", None)
    with pytest.raises(InputError, match=r"--runner=DirectRunner: needs apache-beam.*sepssl\[beam"):
        run(corpus_of(world, tmp_path / "out"), options=["--runner=DirectRunner"])
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_processes_that_are_killed(world, tmp_path):
    """A worker, and then the command itself, by SIGKILL; nothing of either is left running."""
    command = [sys.executable, "-m", "sepssl.cli.corpus", "separate", "--processes=2"]
    command += [f"--manifest={world}/manifest.csv", f"--output={tmp_path}/out", "--shard_size=1"]
    command += [f"--separator={world}/separator.keras"]
    shards = tmp_path / "out" / "shards"

    def children(process):
        text = pathlib.Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text()
        return [int(number) for number in text.split()]

    def workers(process):
        return [
            number
            for number in children(process)
            if b"spawn_main" in pathlib.Path(f"/proc/{number}/cmdline").read_bytes()
        ]

    def begun(wanted):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        while process.poll() is None and len(list(shards.glob("0*"))) < wanted:
            time.sleep(0.01)
        return process

    process = begun(1)
    os.kill(workers(process)[0], signal.SIGKILL)
    _, error = process.communicate()
    done = {p.parent.name: p.stat().st_ino for p in shards.glob("0*/shard.json")}
    if process.returncode:  # else the last shard was there already
        assert process.returncode == 1
        assert b"a process ended before its shard was done" in error
    process = begun(len(done))
    left = workers(process)
    process.kill()
    process.communicate()
    deadline = time.monotonic() + 60
    while any(os.path.exists(f"/proc/{number}") for number in left):
        assert time.monotonic() < deadline, "a worker outlives the command"
        time.sleep(0.1)
    assert subprocess.run(command).returncode == 0
    straight = corpus_of(world, tmp_path / "straight", shard_size=1)
    run(straight)
    # Processes have fewer threads each, with which sums are rounded otherwise.
    files = sorted(shards.rglob("*.flac"))
    assert len(files) == 12
    for file in files:
        expected = soundfile.read(tmp_path / "straight" / "shards" / file.relative_to(shards))[0]
        np.testing.assert_allclose(soundfile.read(file)[0], expected, atol=1.01 / 32768)
    now = {p.parent.name: p.stat().st_ino for p in shards.glob("0*/shard.json")}
    assert now.items() >= done.items()


def test_no_name_takes_anothers_channels(world, tmp_path):
    (tmp_path / "scratch").mkdir()
    for name in ("scratch/s.wav", "a.wav", "a#0.50-0.75.wav"):
        soundfile.write(tmp_path / name, noise(1, 4), RATE)
    rows = ["scratch/s.wav,,", "a.wav,0.5,0.25", "a#0.50-0.75.wav,,", "a.wav,,1e308"]
    manifest = write_manifest(tmp_path / "m.csv", rows)
    corpus = corpus_of(world, tmp_path / "out", manifest=str(manifest), shard_size=4)
    report = run(corpus)
    (_, _, beyond), (_, clip, taken) = report.failed
    assert "is 1.000 s long; expected a recording that holds 0 s to 1e+308 s" in beyond
    assert clip == "a#0.50-0.75.wav"
    assert "another recording's channels" in taken
    listed = [row["path"] for row in table(tmp_path / "out" / "channels.csv")]
    assert len(set(listed)) == len(listed) == 2 * 3
    frames = {soundfile.info(tmp_path / "out" / path).frames for path in listed}
    assert frames == {RATE, RATE // 4}
    write_manifest(manifest, ["a\0.wav,,"])
    with pytest.raises(InputError, match="line 2: the path holds a NUL byte"):
        run(dataclasses.replace(corpus, output=str(tmp_path / "other")))


def test_part_of_a_shard_is_made_again(world, tmp_path):
    corpus = corpus_of(world, tmp_path / "out")
    run(corpus)
    whole = contents(tmp_path / "out" / "shards")
    (tmp_path / "out" / "shards" / "00000" / "shard.json").unlink()
    report = run(corpus)
    assert (report.made, report.found) == (1, 2)
    assert contents(tmp_path / "out" / "shards") == whole


@pytest.mark.parametrize("text", ["{}", "[]", "1", '{"done": 1}', "failed", "[" * 10**5])
def test_results_of_a_shard_that_cannot_be(world, tmp_path, text):
    corpus = corpus_of(world, tmp_path, shard_size=6)
    (shard,) = corpus.shards()[0]
    corpus.folder(shard).mkdir(parents=True)
    values = dataclasses.asdict(ShardResult(done=6)) | {"failed": [["a.wav", "a.wav"]]}
    text = json.dumps(values) if text == "failed" else text
    (corpus.folder(shard) / "shard.json").write_text(text)
    claim(corpus, [shard])
    with pytest.raises(InputError, match=r"00000/shard.json: cannot be read .*to be deleted"):
        run(corpus)


def test_what_in_a_folder_is_no_recording(world, tmp_path):
    """Channels of others, files that sepssl-embed skips, pipes; names that are not UTF-8."""
    folder = tmp_path / "in"
    folder.mkdir()
    latin = os.fsdecode(b"caf\xe9")
    soundfile.write(folder / "a.wav", noise(1, 4), RATE)
    for name in (f"{latin}.wav", "sound.bin"):
        shutil.copy(folder / "a.wav", folder / name)
    corpus = corpus_of(world, folder / "corpus", manifest=str(folder))
    os.mkfifo(folder / "pipe.wav")
    separator = sepssl.load_separator(world / "separator.keras")
    separate_recordings(
        separator, open_clips(folder / "a.wav", RATE), folder / "wavs", verbose=False
    )
    report = run(corpus)
    assert (report.recordings, report.done) == (4, 2)
    reasons = {clip: reason for _, clip, reason in report.failed}
    assert "is not a regular file" in reasons["pipe.wav"]
    assert "holds sound, but has the suffix '.bin'" in reasons["sound.bin"]
    channels = open_clips(folder / "corpus" / "channels.csv", RATE)
    assert (len(channels), channels.skipped) == (6, [])
    recordings = {row["recording"] for row in table(folder / "corpus" / "channels.csv")}
    assert recordings == {"a.wav", "caf%E9.wav"}
    again = dataclasses.replace(corpus, output=str(tmp_path / "again"))
    assert [row.recording for row in again.rows()[0]] == ["a.wav", f"{latin}.wav", "pipe.wav"]
    index = corpus_of(world, tmp_path / "index", "embed", manifest=str(folder))
    assert {row.recording for row in index.rows()[0]} == {
        *("a.wav", f"{latin}.wav", "pipe.wav"),
        *(f"wavs/a_channel{number}.wav" for number in (1, 2, 3)),
    }


def test_one_file_under_two_names(world, tmp_path):
    manifest = write_manifest(tmp_path / "m.csv", [f"{world}/a.wav,,", f"{world}/sub/../a.wav,,"])
    with pytest.raises(InputError, match=r"line 3: names '.*world.*a.wav' again, as .*sub/../a"):
        run(corpus_of(world, tmp_path / "out", manifest=str(manifest)))
    (tmp_path / "corpus.json").write_text("{")
    with pytest.raises(InputError, match=r"holds no corpus\.json of this package"):
        run(corpus_of(world, tmp_path))
