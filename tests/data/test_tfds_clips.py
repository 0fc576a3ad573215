"""Clips of TFDS datasets, against what was written into them."""

import importlib.util
import io
import pathlib
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from sepssl.data.scenes import SceneConfig, make_scene
from sepssl.data.scenes.builder import ScenesBuilderConfig, SepsslScenes
from sepssl.data.scenes.sources import CLASS_NAMES
from sepssl.data.splits import training_roles
from sepssl.data.tfds_clips import TfdsClips, open_tfds
from sepssl.errors import InputError
from sepssl.representation.embed import embed_clips
from tests.tfds_files import prepare

RATE = 8000
LABEL = tfds.features.ClassLabel(names=["bird", "rain", "siren"])
AUDIO = tfds.features.Audio(sample_rate=RATE, dtype=np.int16)
ARRAY_RECORD = importlib.util.find_spec("array_record") is not None

file_formats = pytest.mark.parametrize(
    "file_format", ["tfrecord", *(["array_record"] if ARRAY_RECORD else [])]
)


def noise(seed, length=800):
    """Samples of 16 bits."""
    return np.random.default_rng(seed).integers(-(2**15), 2**15, length).astype(np.int16)


def encoded(waveform, rate, file_format):
    file = io.BytesIO()
    soundfile.write(file, waveform, rate, format=file_format)
    return file.getvalue()


@file_formats
def test_every_clip_in_any_order(tmp_path, file_format):
    # The length tells which clip is read: TFDS shuffles what it writes. Each of three files
    # holds more than the 16 records that TFDS takes of each in turn by default.
    sounds = {800 + i: noise(i, 800 + i) for i in range(60)}
    features = {"audio": AUDIO, "label": LABEL, "speaker": tfds.features.ClassLabel(num_classes=2)}
    records = [{"audio": s, "label": n % 3, "speaker": n % 2} for n, s in sounds.items()]
    builder = prepare(tmp_path, features, {"train": records}, 3, file_format)
    assert builder.info.splits["train"].num_shards == 3

    clips = TfdsClips("toy", "train", RATE, tmp_path)
    assert len(clips) == 60
    assert clips.names[:2] == ["toy/1.0.0/train[0]", "toy/1.0.0/train[1]"]
    assert clips.class_names == ["bird", "rain", "siren"]
    assert clips.labels.dtype == np.int8
    assert clips.skipped == []
    found = {}
    for index in [*range(60), 59, 59, 0, 0, 21, 45, 20, 33, 7, 8, 12]:
        waveform = clips.read(index)
        assert waveform.dtype == np.float32
        np.testing.assert_allclose(waveform, sounds[len(waveform)] / 32768, atol=1e-7)
        np.testing.assert_array_equal(clips.labels[index], np.eye(3)[len(waveform) % 3])
        assert found.setdefault(index, len(waveform)) == len(waveform)
    assert set(found.values()) == set(sounds)


def test_two_channels_at_another_rate_with_several_labels(tmp_path):
    t = np.arange(22050) / 44100
    left, right = np.sin(2 * np.pi * 440 * t), np.sin(2 * np.pi * 1000 * t)
    features = {
        "voice": tfds.features.Audio(shape=(None, 2), dtype=np.float32),
        "rate": np.int32,
        "tags": tfds.features.Sequence(LABEL),
        "id": tfds.features.Text(),
    }
    sound = np.stack([0.6 * left, 0.2 * right], 1).astype(np.float32)
    records = [
        {"voice": sound, "rate": 44100, "tags": ["siren", "bird"], "id": "a"},
        {"voice": sound[:800], "rate": RATE, "tags": [], "id": "b"},
    ]
    prepare(tmp_path, features, {"eval": records})
    clips = TfdsClips("toy", "eval", RATE, tmp_path)
    for index in range(2):
        waveform, labels = clips.read(index), clips.labels[index]
        if len(waveform) == 800:
            np.testing.assert_allclose(waveform, sound[:800].mean(1), atol=1e-6)
            np.testing.assert_array_equal(labels, [0, 0, 0])
        else:
            assert len(waveform) == 4000
            t = np.arange(4000) / RATE
            expected = 0.3 * np.sin(2 * np.pi * 440 * t) + 0.1 * np.sin(2 * np.pi * 1000 * t)
            inner = slice(400, -400)  # beyond the filter's edges
            np.testing.assert_allclose(waveform[inner], expected[inner], atol=1e-4)
            np.testing.assert_array_equal(labels, [1, 0, 1])


@pytest.mark.parametrize(
    ("dtype", "sound", "expected", "subtype"),
    [
        (np.uint8, [128, 255, 0], [0, 127 / 128, -1], "PCM_16"),
        (np.int32, [2**30, -(2**31), 0], [0.5, -1, 0], "FLOAT"),
        # TFDS's default type, for 16-bit files
        (np.int64, [2**14, -(2**15), 0], [0.5, -1, 0], "PCM_16"),
        (np.int64, [2**15, 0, 0], [2.0**-16, 0, 0], "FLOAT"),
        (np.float32, [0.5, -1.5, 0.0], [0.5, -1.5, 0], "FLOAT"),
    ],
)
def test_scale_of_every_type(tmp_path, dtype, sound, expected, subtype):
    features = {
        "audio": tfds.features.Audio(sample_rate=RATE, dtype=dtype),
        "labels": tfds.features.Tensor(shape=(4,), dtype=np.int64),
    }
    record = {"audio": np.array(sound, dtype), "labels": np.array([0, 1, 1, 0])}
    prepare(tmp_path, features, {"train": [record]})
    clips = TfdsClips("toy", "train", RATE, tmp_path)
    np.testing.assert_allclose(clips.read(0), expected, atol=1e-7)
    stream = TfdsClips("toy", "train", 2 * RATE, tmp_path).stream(0)
    assert (stream.sample_rate, stream.subtype) == (RATE, subtype)
    np.testing.assert_allclose(next(stream.blocks), expected, atol=1e-7)
    np.testing.assert_array_equal(clips.labels, [[0, 1, 1, 0]])
    assert clips.class_names == ["0", "1", "2", "3"]


@file_formats
def test_encoded_files_and_broken_ones(tmp_path, file_format):
    t = np.arange(RATE) / RATE
    tones = [0.4 * np.sin(2 * np.pi * hz * t) for hz in (200, 300, 400, 500)]
    tones[0][-100:] = 0  # a WAV that ends in zero bytes
    flac = encoded(tones[1], RATE, "FLAC")
    files = [
        (encoded(tones[0], RATE, "WAV"), 1e-4),
        (flac, 1e-4),
        (encoded(tones[2], RATE, "OGG"), 0.05),
        (encoded(tones[3], RATE, "MP3"), 0.05),
        (flac[: len(flac) // 2], None),
        (b"no sound", None),
        (encoded(np.zeros(800), RATE, "WAV"), None),
    ]
    features = {
        "audio": tfds.features.Text(),
        "id": tfds.features.Text(),
        "label": tfds.features.ClassLabel(num_classes=len(files)),  # tells which file is read
    }
    records = [{"audio": f, "label": i, "id": str(i)} for i, (f, _) in enumerate(files)]
    prepare(tmp_path, features, {"train": records}, file_format=file_format)
    clips = TfdsClips("toy", "train", RATE, tmp_path)
    embeddings, indices, skipped = embed_clips(lambda waveform: waveform[:7000], clips, "toy")
    numbers = clips.labels.argmax(axis=1)
    assert sorted(numbers[indices]) == [0, 1, 2, 3]
    for embedding, number in zip(embeddings, numbers[indices], strict=True):
        np.testing.assert_allclose(embedding, tones[number][:7000], atol=files[number][1])
    reasons = {numbers[clips.names.index(name)]: reason for name, reason in skipped}
    for number, says in ((4, "truncated"), (5, "not readable as sound"), (6, "silent")):
        assert says in reasons[number]
        index = int(np.flatnonzero(numbers == number)[0])
        assert reasons[number].startswith(f"toy/1.0.0/train[{index}]: ")
        with pytest.raises(InputError, match=says):
            clips.read(index)


@file_formats
def test_audio_that_is_stored_encoded(tmp_path, file_format):
    """`lazy_decode`: TFDS itself would need pydub to read it."""
    audio = tfds.features.Audio(file_format="wav", lazy_decode=True)
    file = io.BytesIO(encoded(noise(0), RATE, "WAV"))
    features = {"audio": audio, "label": LABEL}
    prepare(tmp_path, features, {"train": [{"audio": file, "label": 1}]}, 1, file_format)
    waveform = TfdsClips("toy", "train", RATE, tmp_path).read(0)
    np.testing.assert_allclose(waveform, noise(0) / 32768, atol=1e-7)
    rate, subtype, blocks = TfdsClips("toy", "train", 2 * RATE, tmp_path).stream(0)
    assert (rate, subtype) == (RATE, "PCM_16")
    np.testing.assert_allclose(np.concatenate(list(blocks)), noise(0) / 32768, atol=1e-7)


def test_broken_arrays_and_missing_labels(tmp_path):
    features = {
        "audio": tfds.features.Audio(sample_rate=RATE, dtype=np.float32),
        "label": LABEL,
    }
    sounds = [[], [np.nan, 0.5], [0.0, 0.0]]
    records = [{"audio": np.array(s, np.float32), "label": -1} for s in sounds]
    prepare(tmp_path, features, {"train": records})
    clips = TfdsClips("toy", "train", RATE, tmp_path)
    assert not clips.labels.any()
    reasons = []
    for index in range(3):
        with pytest.raises(InputError) as error:
            clips.read(index)
        reasons.append(str(error.value).split(": ")[1])
    assert sorted(r.split(";")[0] for r in reasons) == [
        "holds NaN or infinity",
        "is empty",
        "is silent",
    ]


def test_the_built_in_scenes(tmp_path):
    scene = SceneConfig(duration=0.5, sample_rate=RATE)
    config = ScenesBuilderConfig("few", unlabelled=1, train=3, validation=1, test=2, scene=scene)
    SepsslScenes(config=config, data_dir=tmp_path).download_and_prepare()
    clips = TfdsClips("sepssl_scenes/few", "train", RATE, str(tmp_path))
    assert clips.class_names == list(CLASS_NAMES)
    scenes = [make_scene(scene, 0, "train", index) for index in range(3)]
    found = set()
    for index in range(3):
        waveform = clips.read(index)
        errors = [np.abs(waveform - scene.mixture).max() for scene in scenes]
        best = int(np.argmin(errors))
        found.add(best)
        assert errors[best] < 1e-4
        named = {clips.class_names[i] for i in np.flatnonzero(clips.labels[index])}
        assert named == set(scenes[best].class_names)
    assert found == {0, 1, 2}


@file_formats
@pytest.mark.parametrize("form", ["dicts", "arrays", "files"])
def test_sources_and_folds(tmp_path, file_format, form):
    """As TFDS's own FUSS has them, as arrays, and as files."""
    sequence = tfds.features.Sequence
    audio = tfds.features.Audio(sample_rate=RATE, dtype=np.int16, shape=(800,))
    source = {"dicts": {"audio": audio, "label": LABEL}, "arrays": audio}
    features = {
        "mixture_audio": audio,
        "sources": sequence(source.get(form, tfds.features.Text())),
        "label": LABEL,
        "fold": np.int64,
    }
    sounds = [noise(seed) // 4 for seed in range(4)]
    sounds[2] *= 0  # a source may be silent
    records = {"train": [], "test": []}
    for fold, some in enumerate((sounds[:3], sounds[3:])):
        stored = {
            "dicts": [{"audio": sound, "label": 1} for sound in some],
            "arrays": some,
            "files": [encoded(sound, RATE, "FLAC") for sound in some],
        }
        record = {"mixture_audio": sum(some), "label": 0, "fold": fold, "sources": stored[form]}
        records["train"].append(record)
    records["test"].append(records["train"][0] | {"sources": []})
    prepare(tmp_path, features, records, file_format=file_format)
    clips = open_tfds("toy", RATE, tmp_path, sources=True)
    assert clips.has_sources
    assert [name.split("[")[0] for name in clips.names] == ["toy/1.0.0/train"] * 2
    assert sorted(clips.folds) == ["0", "1"]
    for index, fold in enumerate(clips.folds):
        expected = np.array(sounds[3:] if fold == "1" else sounds[:3]) / 32768
        mixture, sources = clips.read_with_sources(index)
        np.testing.assert_allclose(sources, expected, atol=1e-7)
        np.testing.assert_allclose(mixture, expected.sum(axis=0), atol=1e-7)
    both = open_tfds("toy", RATE, tmp_path, labels=False)
    assert not both.has_sources
    assert list(both.splits) == ["train", "train", "test"]
    with pytest.raises(InputError, match="its true sources are not known"):
        both.read_with_sources(2)


def test_what_features_do_not_tell(tmp_path):
    features = {
        "x": tfds.features.Audio(dtype=np.int16),
        "y": tfds.features.Audio(dtype=np.int16),
        "a": LABEL,
        "b": LABEL,
    }
    prepare(tmp_path, features, {"train": [{"x": noise(0), "y": noise(1), "a": 0, "b": 2}]})
    clips = open_tfds("toy:1.0.0/audio=y,labels=b,rate=4000", RATE, tmp_path)
    np.testing.assert_array_equal(clips.labels, [[0, 0, 1]])
    slow = open_tfds("toy/audio=y,rate=8000", RATE, tmp_path, labels=False)
    np.testing.assert_allclose(slow.read(0), noise(1) / 32768, atol=1e-7)
    assert len(clips.read(0)) == 2 * len(slow.read(0))
    assert clips.origin.split(", ")[2:5] == ["audio y", "rate 4000", "at 8000 Hz"]
    for told, says in (
        ("labels=a,audio=z", "z: is no feature with sound; expected one of x, y"),
        ("labels=x,audio=y,rate=8000", "x: is no feature with labels; expected one of a, b"),
        ("labels=a,audio=y", "or as rate=HZ after the dataset's name"),
        ("rate=fast", "says rate=fast; expected audio=FEATURE"),
        ("speed=2", "says speed=2; expected audio=FEATURE"),
    ):
        assert says in error_of(f"toy/{told}", "train", RATE, tmp_path)
    prepare(tmp_path / "known", {"audio": AUDIO}, {"train": [{"audio": noise(0)}]})
    with pytest.raises(InputError, match="rate=7: the sample rate is known, 8000"):
        open_tfds("toy/rate=7", RATE, tmp_path / "known", labels=False)


def error_of(*arguments):
    with pytest.raises(InputError) as error:
        TfdsClips(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_datasets_that_are_not_there(tmp_path):
    assert "is not a valid dataset name" in error_of("huggingface:x", "train", RATE, tmp_path)
    assert "'nosuch' is neither a dataset known" in error_of("nosuch/a", "train", RATE, tmp_path)
    error = error_of("crema_d", "train", RATE, tmp_path)
    assert f"tfds:crema_d: has not been prepared in {tmp_path}" in error
    assert f"tfds.builder('crema_d', data_dir='{tmp_path}').download_and_prepare()" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_advice_for_a_dataset_that_is_not_there_makes_it(tmp_path):
    error = error_of("sepssl_scenes/tiny", "train", RATE, tmp_path)
    command = error.split('python -c "')[1].removesuffix('"')
    subprocess.run([sys.executable, "-c", command], check=True, timeout=600, capture_output=True)
    clips = open_tfds("sepssl_scenes/tiny", RATE, tmp_path, labels=False)
    assert len(clips) == 64
    assert len(clips.read(40)) == 2 * RATE
    assert clips.labels is None
    assert clips.labelled().class_names == list(CLASS_NAMES)
    roles = {"unlabelled": "train", "train": "train", "validation": "validation", "test": "test"}
    assert training_roles(clips).tolist() == [roles[split] for split in clips.splits]


@pytest.mark.parametrize(
    ("features", "says"),
    [
        (
            {"audio": AUDIO, "a": LABEL, "b": LABEL},
            "cannot tell which feature holds the labels: a and b qualify; it has a, audio, b;",
        ),
        ({"audio": AUDIO}, "has no feature with labels; it has audio;"),
        ({"label": LABEL}, "has no feature with sound; it has label;"),
        (
            {"x": AUDIO, "y": AUDIO, "label": LABEL},
            "cannot tell which feature holds the sound: x and y qualify; it has label, x, y;",
        ),
        ({"audio": tfds.features.Audio(dtype=np.int16), "label": LABEL}, "sample rate of 'audio'"),
    ],
)
def test_features_that_do_not_tell(tmp_path, features, says):
    values = {name: 0 if feature is LABEL else noise(0) for name, feature in features.items()}
    prepare(tmp_path, features, {"train": [values]})
    error = error_of("toy", "train", RATE, tmp_path)
    assert error.startswith("tfds:toy: ")
    assert says in error
    assert "has no split 'test'; expected one of train" in error_of("toy", "test", RATE, tmp_path)


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_damaged_records(tmp_path, damage):
    records = [{"audio": noise(i), "label": 0} for i in range(4)]
    prepare(tmp_path, {"audio": AUDIO, "label": LABEL}, {"train": records})
    clips = TfdsClips("toy", "train", RATE, tmp_path)
    (file,) = tmp_path.glob("toy/1.0.0/*.tfrecord*")
    data = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) - 100])
    assert "toy/1.0.0/train: cannot be read" in error_of("toy", "train", RATE, tmp_path)
    with pytest.raises(InputError, match=r"^toy/1.0.0/train\[3\]: cannot be read"):
        clips.read(3)
    file.write_bytes(data)
    np.testing.assert_array_equal(clips.read(3), TfdsClips("toy", "train", RATE, tmp_path).read(3))


def test_another_file_format(tmp_path):
    records = [{"audio": noise(0), "label": 0}]
    builder = prepare(tmp_path, {"audio": AUDIO, "label": LABEL}, {"train": records})
    info = pathlib.Path(builder.data_dir, "dataset_info.json")
    info.write_text(info.read_text().replace('"tfrecord"', '"parquet"'))
    assert "is stored as parquet; expected tf" in error_of("toy", "train", RATE, tmp_path)
