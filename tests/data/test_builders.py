"""Published data sets, folders and mixtures as TFDS datasets."""

import io
import os
import shutil
import tarfile
import zipfile

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from sepssl.audio.encoding import encoded
from sepssl.data.builders import (
    MixturesBuilderConfig,
    RecordingsBuilderConfig,
    SepsslAudioset,
    SepsslEsc50,
    SepsslFsd50k,
    SepsslFuss,
    SepsslMixtures,
    SepsslRecordings,
)
from sepssl.data.mixtures import MixtureConfig, Mixtures
from sepssl.data.sources import open_clips
from sepssl.data.splits import assigned_splits
from sepssl.data.tfds_clips import open_tfds
from sepssl.errors import InputError

RATE = 8000


def write(path, seed=0, seconds=0.5, rate=RATE):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, 0.1 * np.random.default_rng(seed).normal(size=int(seconds * rate)), rate)
    return path


def build(builder, folder, manual=None, **arguments):
    made = builder(data_dir=folder / "data", **arguments)
    config = tfds.download.DownloadConfig(manual_dir=manual, extract_dir=folder / "extracted")
    made.download_and_prepare(download_config=config)
    return made


def records(builder, split):
    """By id; strings as str."""
    names = builder.info.features["labels"].feature.names
    found = {}
    for record in tfds.as_numpy(builder.as_dataset(split=split)):
        record["labels"] = [names[label] for label in record["labels"]]
        for name in ("id", "fold", "recording"):
            record[name] = record[name].decode()
        found[record["id"]] = record
    return found


def all_records(builder):
    return {name: r for split in builder.info.splits for name, r in records(builder, split).items()}


def test_esc50_as_published(tmp_path):
    rows = ["filename,fold,target,category,esc10"]
    archive = zipfile.ZipFile(tmp_path / "ESC-50-master.zip", "w")
    for number, (target, category, esc10) in enumerate(
        [(10, "rain", "True"), (9, "crow", "False"), (0, "dog", "True"), (10, "rain", "True")]
    ):
        name = f"{number % 2 + 1}-{number}-A-{target}.wav"
        file = write(tmp_path / "sounds" / name, number)
        archive.write(file, f"ESC-50-master/audio/{name}")
        rows.append(f"{name},{number % 2 + 1},{target},{category},{esc10}")
    archive.writestr("ESC-50-master/audio/broken.wav", b"RIFF")
    rows.append("broken.wav,1,0,dog,True")
    archive.writestr("ESC-50-master/meta/esc50.csv", "\n".join(rows))
    archive.close()
    builder = build(SepsslEsc50, tmp_path, tmp_path)
    assert builder.info.features["labels"].feature.names == ["dog", "crow", "rain"]
    found = records(builder, "train")
    assert sorted(found) == [f"audio/{name.split(',')[0]}" for name in sorted(rows[1:-1])]
    crow = found["audio/2-1-A-9.wav"]
    assert crow["audio"] == (tmp_path / "sounds" / "2-1-A-9.wav").read_bytes()
    assert (crow["labels"], crow["fold"], list(crow["subsets"])) == (["crow"], "2", [])
    assert list(found["audio/1-2-A-0.wav"]["subsets"]) == [b"esc10"]
    skipped = tfds.builder("sepssl_esc50", data_dir=tmp_path / "data").info.metadata["skipped"]
    assert list(skipped) == ["audio/broken.wav"]
    # Read again: folds and subsets are those of the folder.
    clips = open_tfds("sepssl_esc50", RATE, tmp_path / "data", labels=False).labelled()
    assert clips.splits is None
    folder = open_clips(tmp_path / "sounds", RATE)
    of_record = {record["recording"]: record for record in found.values()}
    for index, recording in enumerate(clips.recordings):
        expected = folder.read(folder.names.index(recording.removeprefix("audio/")))
        np.testing.assert_array_equal(clips.read(index), expected)
        assert clips.folds[index] == of_record[recording]["fold"]
        assert clips.subsets[index] == {s.decode() for s in of_record[recording]["subsets"]}
    roles = assigned_splits(clips)
    assert {(f, r) for f, r in zip(clips.folds, roles, strict=True) if f == "2"} == {("2", "test")}
    assert "test" not in {r for f, r in zip(clips.folds, roles, strict=True) if f == "1"}


def test_fuss_as_published(tmp_path):
    with tarfile.open(tmp_path / "FUSS_ssdata_reverb.tar.gz", "w:gz") as archive:
        for number, split in enumerate(("train", "validation", "eval")):
            name = f"example0000{number}"
            folder = tmp_path / "made" / split
            sources = [
                soundfile.read(write(folder / f"{name}_sources" / f"{kind}_sound.wav", seed))[0]
                for seed, kind in enumerate(("background0", "foreground0"), number)
            ]
            soundfile.write(folder / f"{name}.wav", sum(sources), RATE)
            (folder / f"{name}.jams").write_text("{}")
        archive.add(tmp_path / "made", "ssdata_reverb")
    builder = build(SepsslFuss, tmp_path, tmp_path)
    assert builder.builder_config.name == "reverberant"
    assert {split: info.num_examples for split, info in builder.info.splits.items()} == {
        "train": 1,
        "validation": 1,
        "test": 1,
    }
    (record,) = records(builder, "test").values()
    folder = tmp_path / "made" / "eval"
    assert record["audio"] == (folder / "example00002.wav").read_bytes()
    sources = sorted((folder / "example00002_sources").iterdir())
    assert list(record["sources"]) == [source.read_bytes() for source in sources]
    clips = open_clips("tfds:sepssl_fuss", RATE, data_dir=tmp_path / "data", sources=True)
    assert clips.has_sources
    assert list(clips.splits) == ["train", "validation", "test"]
    mixture, found = clips.read_with_sources(2)
    np.testing.assert_allclose(found.sum(axis=0), mixture, atol=1e-4)
    np.testing.assert_array_equal(mixture, clips.read(2))
    with pytest.raises(InputError, match=r"neither the folder ssdata nor FUSS_ssdata\.tar\.gz"):
        build(SepsslFuss, tmp_path, tmp_path, config="unprocessed")


def test_fsd50k_as_published(tmp_path):
    truth = tmp_path / "FSD50K.ground_truth"
    truth.mkdir()
    (truth / "vocabulary.csv").write_text("0,Bark,/m/05tny_\n1,Animal,/m/0jbk\n2,Rain,/m/06mb1\n")
    dev = (
        'fname,labels,mids,split\n1,"Bark,Animal","/m/05tny_,/m/0jbk",train\n2,Rain,/m/06mb1,val\n'
    )
    (truth / "dev.csv").write_text(dev + "4,Rain,/m/06mb1,train\n")
    (truth / "eval.csv").write_text("fname,labels,mids\n3,Rain,/m/06mb1\n")
    for number, part in ((1, "dev"), (2, "dev"), (3, "eval")):
        write(tmp_path / f"FSD50K.{part}_audio" / f"{number}.wav", number)
    builder = build(SepsslFsd50k, tmp_path, tmp_path)
    assert builder.info.features["labels"].feature.names == ["Bark", "Animal", "Rain"]
    found = {split: records(builder, split) for split in builder.info.splits}
    assert {split: list(of_split) for split, of_split in found.items()} == {
        "train": ["1.wav"],
        "validation": ["2.wav"],
        "test": ["3.wav"],
    }
    assert sorted(found["train"]["1.wav"]["labels"]) == ["Animal", "Bark"]
    assert "does not exist" in builder.info.metadata["skipped"]["4.wav"]
    clips = open_tfds("sepssl_fsd50k", RATE, tmp_path / "data")
    np.testing.assert_array_equal(clips.labels, [[1, 1, 0], [0, 0, 1], [0, 0, 1]])
    shutil.rmtree(tmp_path / "FSD50K.eval_audio")
    (tmp_path / "FSD50K.eval_audio.zip").write_bytes(b"PK of several parts")
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(
        InputError, match=r"eval_audio.zip: cannot be extracted .*expected the fold"
    ):
        build(SepsslFsd50k, tmp_path, tmp_path)


@pytest.mark.parametrize("config", ["balanced", "full"])
def test_segments_of_audioset(tmp_path, config):
    (tmp_path / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/0dgw9r,"Male speech, man speaking"\n'
    )
    head = "# Segments csv\n# num_ytids=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
    for name, rows in (
        ("balanced_train", '-0RWZT-miFs, 420.000, 430.000, "/m/09x0r,/m/0dgw9r"\n'),
        ("unbalanced_train", '---1_cCGK4M, 0.000, 10.000, "/m/09x0r"\n'),
        ("eval", '--4gqARaEJE, 0.000, 10.000, "/m/0dgw9r"\nYgoneAAAAAA, 0.000, 10.000, "/m/09x0r"'),
    ):
        (tmp_path / f"{name}_segments.csv").write_text(head + rows)
    write(tmp_path / "audio" / "train" / "Y-0RWZT-miFs.wav")
    write(tmp_path / "audio" / "train" / "---1_cCGK4M_0.flac")
    write(tmp_path / "audio" / "eval" / "--4gqARaEJE.flac")
    builder = build(SepsslAudioset, tmp_path, tmp_path, config=config)
    train = {name: sorted(r["labels"]) for name, r in records(builder, "train").items()}
    both = ["Male speech, man speaking", "Speech"]
    expected = {"train/Y-0RWZT-miFs.wav": both}
    expected |= {"train/---1_cCGK4M_0.flac": ["Speech"]} if config == "full" else {}
    assert train == expected
    assert list(records(builder, "test")) == ["eval/--4gqARaEJE.flac"]
    assert list(builder.info.metadata["skipped"]) == ["YgoneAAAAAA"]
    (tmp_path / "eval_segments.csv").write_text(head + '--4gqARaEJE, 0, 10, "/m/none"\n')
    with pytest.raises(InputError, match=r"eval_segments\.csv: has the line '--4gq"):
        SepsslAudioset(data_dir=tmp_path / "other", config=config).download_and_prepare(
            download_config=tfds.download.DownloadConfig(manual_dir=tmp_path)
        )


def test_a_manifest_with_parts_and_splits(tmp_path):
    t = np.arange(3 * RATE)
    stereo = np.stack([0.2 * np.sin(t / 9), 0.2 * np.sin(t / 9)], 1)
    soundfile.write(tmp_path / "a.wav", stereo, RATE)
    soundfile.write(tmp_path / "loud.wav", 4 * stereo[:, 0] + 0.5, RATE, subtype="FLOAT")
    write(tmp_path / "b.flac")
    (tmp_path / "m.csv").write_text(
        "path,start,duration,labels,split\na.wav,1,1,x;y,train\nloud.wav,0,2,x,\nb.flac,,,,test\n"
        "gone.wav,,,,test\n"
    )
    config = RecordingsBuilderConfig(path=str(tmp_path / "m.csv"))
    assert config.name.startswith("m-")
    builder = build(SepsslRecordings, tmp_path, config=config)
    found = all_records(builder)
    assert set(builder.info.splits) == {"train", "other", "test"}
    assert found["b.flac"]["audio"] == (tmp_path / "b.flac").read_bytes()
    part, rate = soundfile.read(io.BytesIO(found["a.wav#1.00-2.00"]["audio"]))
    assert rate == RATE
    np.testing.assert_array_equal(part, soundfile.read(tmp_path / "a.wav")[0][RATE : 2 * RATE, 0])
    loud = soundfile.read(io.BytesIO(found["loud.wav#0.00-2.00"]["audio"]))[0]
    expected = soundfile.read(tmp_path / "loud.wav")[0]
    assert np.max(expected) > 1
    np.testing.assert_array_equal(loud, expected[: 2 * RATE])
    assert found["a.wav#1.00-2.00"]["recording"] == "a.wav"
    assert sorted(found["a.wav#1.00-2.00"]["labels"]) == ["x", "y"]
    assert "does not exist" in builder.info.metadata["skipped"]["gone.wav"]
    clips = open_clips(f"tfds:sepssl_recordings/{config.name}", RATE, data_dir=tmp_path / "data")
    assert sorted(clips.splits) == ["other", "test", "train"]
    with pytest.raises(InputError, match="expected a configuration with a path"):
        build(SepsslRecordings, tmp_path)


def test_recordings_without_a_row_are_no_negatives(tmp_path):
    for name in ("a", "b", "c"):
        write(tmp_path / "in" / f"{name}.wav")
    (tmp_path / "in" / "labels.csv").write_text("filename,labels\na.wav,x\nb.wav,\n")
    config = RecordingsBuilderConfig(path=str(tmp_path / "in"))
    builder = build(SepsslRecordings, tmp_path, config=config)
    assert {split: set(records(builder, split)) for split in builder.info.splits} == {
        "train": {"a.wav", "b.wav"},
        "unlabelled": {"c.wav"},
    }
    # Labels with a fault are not ignored: with them go the splits.
    (tmp_path / "in" / "labels.csv").write_text("filename,labels,split\na.wav,x,tset\n")
    with pytest.raises(InputError, match="tset"):
        build(SepsslRecordings, tmp_path / "again", config=config)


def test_parts_of_one_recording_stay_together_without_labels(tmp_path):
    for name in ("a", "b"):
        write(tmp_path / f"{name}.wav", seconds=1.0)
    parts = [f"{name}.wav,{start},0.5" for name in ("a", "b") for start in (0, 0.5)]
    (tmp_path / "m.csv").write_text("\n".join(["path,start,duration", *parts, ""]))
    config = RecordingsBuilderConfig(path=str(tmp_path / "m.csv"))
    build(SepsslRecordings, tmp_path, config=config)
    clips = open_clips(f"tfds:sepssl_recordings/{config.name}", RATE, data_dir=tmp_path / "data")
    assert clips.labels is None
    assert sorted(clips.recordings) == ["a.wav", "a.wav", "b.wav", "b.wav"]


def test_names_that_are_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    write(tmp_path / "a.wav")
    (tmp_path / "in" / name).mkdir(parents=True)
    shutil.copy(tmp_path / "a.wav", tmp_path / "in" / name / f"{name}.wav")
    config = RecordingsBuilderConfig(path=str(tmp_path / "in"))
    (record,) = all_records(build(SepsslRecordings, tmp_path, config=config)).values()
    assert record["id"] == record["recording"] == "caf%E9/caf%E9.wav"
    assert record["labels"] == ["caf%E9"]
    assert record["audio"] == (tmp_path / "a.wav").read_bytes()


def test_mixtures_of_real_sources(tmp_path):
    for number in range(12):
        write(tmp_path / "in" / "abcd"[number % 4] / f"{number}.wav", number, 1.0)
    mixture = MixtureConfig(RATE, 1.0, part_seconds=(0.3, 0.5))
    config = MixturesBuilderConfig(
        path=str(tmp_path / "in"), train=3, validation=0, test=2, seed=5, mixture=mixture
    )
    builder = build(SepsslMixtures, tmp_path, config=config)
    spec = f"mix:{tmp_path / 'in'}"
    expected = open_clips(spec, RATE, mixtures=Mixtures({"train": 3, "test": 2}, 5, mixture))
    found = all_records(builder)
    assert sorted(found) == sorted(expected.names)
    for index, name in enumerate(expected.names):
        scene, sources = expected.read_with_sources(index)
        for sound, original in zip(
            [found[name]["audio"], *found[name]["sources"]], [scene, *sources], strict=True
        ):
            decoded = soundfile.read(io.BytesIO(sound), dtype="float32")[0]
            np.testing.assert_allclose(decoded, original, atol=1 / 65536 + 1e-7)
        row = np.flatnonzero(expected.labels[index])
        assert found[name]["labels"] == [expected.class_names[i] for i in row]
    other = MixturesBuilderConfig(path=config.path, train=4)
    assert other.name != config.name


@pytest.mark.parametrize(
    ("subtype", "peak", "rate", "form"),
    [
        ("PCM_16", 0.5, 44100, ("FLAC", "PCM_16", 2**-16)),
        ("VORBIS", 0.5, 48000, ("FLAC", "PCM_16", 2**-16)),
        ("VORBIS", 1.5, 48000, ("WAV", "FLOAT", 0)),
        ("FLOAT", 0.5, 8000, ("FLAC", "PCM_24", 2**-24)),
        ("FLOAT", 1.5, 8000, ("WAV", "FLOAT", 0)),
        ("PCM_16", 0.5, 66150, ("FLAC", "PCM_16", 2**-16)),
        ("PCM_16", 0.5, 66151, ("WAV", "FLOAT", 0)),
    ],
)
def test_what_a_waveform_is_encoded_as(subtype, peak, rate, form):
    waveform = peak * np.random.default_rng(0).uniform(-1, 1, 999).astype(np.float32)
    waveform[0] = peak
    file = io.BytesIO(encoded(waveform, rate, subtype))
    info = soundfile.info(file)
    assert (info.format, info.subtype, info.samplerate) == (*form[:2], rate)
    file.seek(0)
    found = soundfile.read(file, dtype="float64")[0]
    np.testing.assert_allclose(found, waveform, atol=form[2])


def test_the_data_that_is_missing_is_asked_for(tmp_path):
    with pytest.raises(AssertionError, match="ESC-50-master"):
        build(SepsslEsc50, tmp_path, tmp_path / "nothing")
    with pytest.raises(InputError) as error:
        open_tfds("sepssl_esc50", RATE, tmp_path)
    assert "import tensorflow_datasets as tfds, sepssl.data.builders; " in str(error.value)
    with pytest.raises(InputError, match="with a RecordingsBuilderConfig of that name"):
        open_tfds("sepssl_recordings/mine", RATE, tmp_path)
    assert "(download_config=tfds.download.DownloadConfig(manual_dir='DIR'))" in str(error.value)
