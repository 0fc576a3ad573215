"""Splits of labelled data, and an evaluation on a TFDS dataset as a user runs it."""

import json

import keras
import numpy as np
import pytest
import soundfile
import tensorflow_datasets as tfds

from sepssl.data.clips import Clips
from sepssl.data.sources import open_clips
from sepssl.data.splits import (
    assigned_splits,
    fold_for_testing,
    fold_names,
    hold_out,
    make_splits,
    split_numbers,
    training_roles,
)
from sepssl.errors import InputError
from sepssl.evaluation.protocol import evaluate_on, evaluate_on_splits
from sepssl.representation import Encoder, SmallBackbone
from sepssl.serialization import save_model

RATE = 16000


class Tones(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Low and high tones; the length tells them apart."""

    VERSION = tfds.core.Version("1.0.0")
    url_infos = None
    sizes: dict[str, int]

    def _info(self):
        audio = tfds.features.Audio(sample_rate=RATE, dtype=np.int16)
        label = tfds.features.ClassLabel(names=["low", "high"])
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict({"audio": audio, "label": label})
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(split) for split in self.sizes}

    def _generate_examples(self, split):
        rng = np.random.default_rng(len(split))
        for index in range(self.sizes[split]):
            t = np.arange(RATE + index) / RATE
            sound = np.sin(2 * np.pi * (200, 3000)[index % 2] * rng.uniform(0.8, 1.2) * t)
            yield index, {"audio": (8000 * sound).astype(np.int16), "label": index % 2}


def prepare(folder, **sizes):
    Tones.sizes = sizes
    Tones(data_dir=folder).download_and_prepare()


def tones(folder):
    return open_clips("tfds:tones", RATE, labels=True, data_dir=folder)


def numbers(clips):
    return [len(clips.read(index)) - RATE for index in range(len(clips.names))]


@pytest.mark.parametrize(
    "sizes",
    [
        {"train": 30, "valid": 4, "test": 5},
        {"train": 30, "test": 5},
        {"train": 30, "dev": 4, "eval": 5},
        {"dev": 30, "eval": 5},
        {"everything": 30},
        {"test": 30},
    ],
    ids=lambda sizes: "-".join(sizes),
)
def test_own_splits_stay_and_the_others_are_taken_out_of_one(tmp_path, sizes):
    prepare(tmp_path, **sizes)
    splits = make_splits(tones(tmp_path), "tones")
    source = next(iter(sizes))
    kept = {
        "validation": "valid" if "valid" in sizes else "dev",
        "test": "test" if "test" in sizes else "eval",
    }
    shared = []
    for split, clips in splits.items():
        read = numbers(clips)
        np.testing.assert_array_equal(clips.labels.argmax(axis=1), np.array(read) % 2)
        own = kept.get(split)
        if own in sizes and own != source:
            assert sorted(read) == list(range(sizes[own]))
            assert all(f"/{own}[" in name for name in clips.names)
        else:
            assert all(f"/{source}[" in name for name in clips.names)
            shared += read
    assert sorted(shared) == list(range(30))
    assert len(splits["train"].names) > 10


def test_too_few_clips(tmp_path):
    prepare(tmp_path, train=2)
    with pytest.raises(InputError, match=r"tfds:tones: none of 2 labelled clips falls into"):
        make_splits(tones(tmp_path), "tfds:tones")


class Named(Clips):
    """Clips of which only names, splits and folds are known."""

    def __init__(self, names, splits=None, folds=None, recordings=None):
        self.names, self.splits, self.folds, self.recordings = names, splits, folds, recordings


def test_a_split_column_is_followed():
    names = [f"{i}.wav" for i in range(8)]
    splits = ["test", "train", "", "validation", "train", "test", "train", ""]
    clips = Named(names, splits)
    assert assigned_splits(clips).tolist() == splits
    roles = ["train" if split == "" else split for split in splits]
    assert training_roles(clips).tolist() == roles
    with pytest.raises(InputError, match="test fold '1': the clips have splits of their own"):
        assigned_splits(Named(names, splits, folds=["1"] * 8), "1")
    only_test = Named(names, ["test", *["train"] * 7])
    assert assigned_splits(only_test)[0] == "test"
    assert set(assigned_splits(only_test)[1:]) <= {"train", "validation"}


def test_folds_of_equal_numbers_have_an_order():
    assert fold_names(["1", "01", "10", "2"]) == fold_names(["01", "2", "1", "10", "1"])


def test_a_fold_column_is_followed():
    folds = ["1", "2", "10", "", "2", "9", "10"]
    clips = Named([f"{i}.wav" for i in range(7)], folds=folds)
    roles = {"1": "train", "2": "train", "9": "validation", "10": "test", "": ""}
    assert assigned_splits(clips).tolist() == [roles[fold] for fold in folds]
    roles = {"1": "test", "2": "train", "9": "train", "10": "validation", "": ""}
    assert assigned_splits(clips, "1").tolist() == [roles[fold] for fold in folds]
    assert set(training_roles(clips)) == {"train"}
    assert fold_for_testing(clips) == "10"
    assert fold_for_testing(Named(["a", "b"], ["train", "test"], ["1", "2"])) == ""
    assert fold_for_testing(Named(["a", "b"])) == ""
    with pytest.raises(InputError, match="test fold '3': expected one of 1, 2, 9, 10"):
        assigned_splits(clips, "3")
    with pytest.raises(InputError, match="have no folds"):
        assigned_splits(Named(["a"]), "3")
    two = assigned_splits(Named([f"{i}.wav" for i in range(40)], folds=["a", "b"] * 20))
    assert set(two[1::2]) == {"test"}
    assert set(two[::2]) == {"train", "validation"}


def test_scores_say_which_fold_they_are_of(tmp_path, capsys):
    rows = ["filename,labels,fold"]
    for i in range(24):
        soundfile.write(
            tmp_path / f"{i}.wav", np.sin((1 + i % 2) * np.arange(4000) + i), 8000, subtype="FLOAT"
        )
        rows.append(f"{i}.wav,{'ab'[i % 2]},{i // 8}")
    (tmp_path / "labels.csv").write_text("\n".join(rows))

    def embed(waveform):  # rate of the sign's changes, and a constant
        return np.array([np.mean(np.diff(np.sign(waveform)) != 0), 1.0])

    for given, tested in (("", "2"), ("0", "0")):
        results, _ = evaluate_on(str(tmp_path), embed, 8000, 0, 0, test_fold=given, verbose=False)
        assert results["test_fold"] == tested
        assert (results["train_clips"], results["test_clips"]) == (8, 8)
        assert results["linear_map"] == 1.0
    assert capsys.readouterr().out == ""


def test_a_name_is_in_the_split_that_older_versions_put_it_in():
    """Another hash would make test clips of what models were trained on."""
    names = ["a.wav", "b.wav", "c.wav", "dogs/bark.wav"]
    assert split_numbers(names).tolist() == [1, 2, 0, 1]


def test_parts_of_a_recording_are_in_one_split():
    recordings = [f"{i // 5}.wav" for i in range(100)]
    names = [f"{name}#{i}" for i, name in enumerate(recordings)]
    assigned = assigned_splits(Named(names, recordings=recordings)).reshape(20, 5)
    assert (assigned == assigned[:, :1]).all()
    assert set(assigned[:, 0]) == {"train", "validation", "test"}


def test_all_parts_of_a_recording_are_held_out_together():
    recordings = [f"{r:02d}.wav" for r in range(40) for part in range(5)]
    used, held_out = hold_out(recordings, 8, seed=0)
    trained = {recordings[i] for i in used}
    validated = {recordings[i] for i in held_out}
    assert len(trained) == 36
    assert not trained & validated
    assert len(set(held_out)) == len(held_out) == 8
    few, none = hold_out(recordings[:50], 8, seed=0)  # 10 recordings: nothing to spare
    assert (len(few), len(none)) == (50, 0)


class Labelled:
    """Clips that must not be read."""

    def __init__(self, labels):
        self.labels = np.array(labels)
        self.names = [str(i) for i in range(len(labels))]


def test_what_cannot_be_scored_is_said_before_clips_are_read():
    both, single, one_class = [[0, 1], [1, 0]], [[1, 0], [0, 1], [0, 0]], [[1, 0], [1, 0]]
    with pytest.raises(
        InputError, match=r"title, validation split: none of 2 classes has both .* column split"
    ):
        evaluate_on_splits(None, [Labelled(x) for x in (both, one_class, both)], 0, "title")
    with pytest.raises(InputError, match="test split: none of 2 classes can be queried in 3"):
        evaluate_on_splits(None, [Labelled(x) for x in (both, both, single)], 0, "title")


def test_the_command(call, tmp_path):
    keras.utils.set_random_seed(0)
    encoder = Encoder(SmallBackbone(32, width=8))
    encoder.build((None, None))
    save_model(encoder, tmp_path / "encoder.keras")
    prepare(tmp_path / "data", train=40, test=10)
    result = call(
        *("evaluate", "--dataset=tfds:tones", f"--encoder={tmp_path}/encoder.keras"),
        *(f"--data_dir={tmp_path}/data", f"--output={tmp_path}/scores.json"),
    )
    assert result.status == 0, result.stderr
    assert "Warning" not in result.stderr
    scores = json.loads((tmp_path / "scores.json").read_text())
    assert scores["dataset"] == "tfds:tones"
    assert scores["train_clips"] + scores["validation_clips"] == 40
    assert (scores["test_clips"], scores["classes"]) == (10, 2)
    # Pitches more than an octave apart: even random convolutions tell them apart.
    assert scores["linear_map"] > 0.95
