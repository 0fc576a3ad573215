"""A TFDS dataset trains, separates and embeds as a folder of the same sounds does."""

import json

import keras
import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from sepssl.configs import encoder_smoke
from sepssl.data.sources import open_clips
from sepssl.index.rows import read_rows
from sepssl.pipelines.embed import embed_recordings
from sepssl.pipelines.separate import open_recordings, output_names, separate_recordings
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.training.encoder import train_encoder
from tests.tfds_files import prepare

pytestmark = pytest.mark.usefixtures("eager")
RATE = 16000


@pytest.fixture(scope="module")
def same_sounds(tmp_path_factory):
    """Arrays in the TFDS dataset "toy", and the folder with the sounds in the order of records."""
    folder = tmp_path_factory.mktemp("sounds")
    rng = np.random.default_rng(0)
    sounds = [rng.integers(-9999, 9999, RATE + 800 * i).astype(np.int16) for i in range(4)]
    audio = tfds.features.Audio(sample_rate=RATE, dtype=np.int16)
    records = [{"audio": sound} for sound in sounds]
    prepare(folder, {"audio": audio}, {"train": records})
    clips = open_clips("tfds:toy", RATE, data_dir=folder)
    assert len(clips) == 4
    for index in range(4):
        sound = np.round(clips.read(index) * 32768).astype(np.int16)
        (folder / "files").mkdir(exist_ok=True)
        soundfile.write(folder / "files" / f"{index}.wav", sound, RATE)
    return folder


def test_it_embeds(same_sounds, tmp_path):
    encoder = Encoder(SmallBackbone(8, width=2))
    encoder.build((None, None))
    for name, spec in (("tfds", "tfds:toy"), ("folder", same_sounds / "files")):
        clips = open_clips(spec, RATE, data_dir=same_sounds)
        embed_recordings(encoder, clips, tmp_path / f"{name}.npz", verbose=False)
    found, expected = read_rows(tmp_path / "tfds.npz"), read_rows(tmp_path / "folder.npz")
    assert len(set(expected.names)) == 4
    named = [f"toy/1.0.0/train[{name.removesuffix('.wav')}]" for name in expected.names]
    assert list(found.names) == named
    np.testing.assert_array_equal(found.vectors, expected.vectors)


def test_it_separates(same_sounds, tmp_path):
    keras.utils.set_random_seed(0)
    separator = Separator(3, STFTBasis(256, 128), TDCN(4, 8, 1, 1), "uniform")
    for name, spec in (("tfds", "tfds:toy"), ("folder", same_sounds / "files")):
        clips = open_recordings(spec, RATE, None, same_sounds)
        separate_recordings(separator, clips, tmp_path / name, verbose=False)
    files = sorted((tmp_path / "folder").glob("*.wav"))
    assert len(files) == 12
    for file in files:
        number, channel = file.stem.split("_")
        found = tmp_path / "tfds" / "toy" / "1.0.0" / f"train[{number}]_{channel}.wav"
        np.testing.assert_array_equal(soundfile.read(found)[0], soundfile.read(file)[0])


def test_channels_are_named_after_records_also_where_recordings_are_known(tmp_path):
    sound = np.arange(RATE, dtype=np.int16)
    features = {"audio": tfds.features.Audio(sample_rate=RATE, dtype=np.int16)}
    features["recording"] = tfds.features.Text()
    prepare(tmp_path, features, {"train": [{"audio": sound, "recording": "a.wav"}] * 2})
    clips = open_recordings("tfds:toy", RATE, None, tmp_path)
    assert clips.recordings == ["a.wav"] * 2
    assert output_names(clips) == ["toy/1.0.0/train[0]", "toy/1.0.0/train[1]"]


def test_it_trains(same_sounds, tmp_path):
    losses = []
    for name, spec in (("tfds", "tfds:toy"), ("folder", str(same_sounds / "files"))):
        config = encoder_smoke.get_config()
        config.train.update(steps=2, batch_size=2, log_every=1, state_steps=(2,), probe_clips=0)
        config.encoder.update(embedding_size=16, width=2)
        config.data.update(directory=spec, data_dir=str(same_sounds), clip_seconds=1.0)
        run = train_encoder(config, tmp_path / name, verbose=False)
        lines = (run.path / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    assert len(losses[0]) == 2
    assert losses[0] == losses[1]
