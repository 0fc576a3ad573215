"""`sepssl-evaluate --protocol=folds`, on a small folder of tones with folds."""

import itertools
import json

import keras
import numpy as np
import pytest
import soundfile
import tensorflow as tf
import threadpoolctl
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from sepssl.audio.log_mel import LogMel
from sepssl.data.folds import open_fold_clips
from sepssl.errors import InputError
from sepssl.evaluation import folds
from sepssl.representation import Encoder, SmallBackbone
from sepssl.serialization import save_model

CLASSES = {"high": 2500.0, "low": 250.0, "middle": 400.0}
PENALTIES = (1e-2, 1.0)
SAMPLES = 15600 + 3 * 7680  # four patches


@pytest.fixture(scope="module")
def things(tmp_path_factory):
    """An encoder, and clips of three classes in three folds, two of the classes a subset."""
    folder = tmp_path_factory.mktemp("things")
    keras.utils.set_random_seed(0)
    encoder = Encoder(SmallBackbone(8, width=2))
    encoder.build((None, None))
    save_model(encoder, folder / "encoder.keras")
    rng = np.random.default_rng(1)
    (folder / "tones" / "audio").mkdir(parents=True)
    rows = ["filename,labels,fold,voiced,licence"]
    for fold, (name, hz), number in itertools.product("123", CLASSES.items(), range(4)):
        time = np.arange(SAMPLES) / 16000
        sound = 0.2 * np.sin(2 * np.pi * hz * rng.uniform(0.7, 1.4) * time)
        sound += rng.normal(0, 0.05, SAMPLES)
        file = f"audio/{fold}-{name}-{number}.wav"
        soundfile.write(folder / "tones" / file, sound, 16000)
        rows.append(f"{file},{name},{fold},{'false' if name == 'middle' else 'True'},CC0")
    (folder / "tones" / "labels.csv").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def clips(things):
    """Of each clip: file, class, fold, and its windows as the encoder has them."""
    encoder = keras.saving.load_model(things / "encoder.keras")
    found = []
    for path in sorted((things / "tones" / "audio").iterdir()):
        sound = soundfile.read(path, dtype="float32")[0]
        fold, name, _ = path.stem.split("-")
        windows = np.asarray(encoder.patch_embeddings(sound[None]))[0]
        assert windows.shape == (4, 8)
        found.append((f"audio/{path.name}", name, fold, windows))
    return found


@pytest.fixture
def evaluate(call, things, tmp_path, monkeypatch):
    monkeypatch.setattr(folds, "_TOLERANCE", 1e-6)
    monkeypatch.setattr(folds, "INVERSE_PENALTIES", PENALTIES)

    def evaluate(*arguments):
        output = tmp_path / f"{len(list(tmp_path.iterdir()))}.json"
        result = call(
            "evaluate",
            f"--dataset={things}/tones",
            "--protocol=folds",
            f"--output={output}",
            *arguments,
        )
        assert result.status == 0, result.stderr
        return json.loads(output.read_text()), result.stdout

    return evaluate


def expected_accuracies(vectors, names, fold_of):
    """By fold, with the C that the other folds choose."""
    names, fold_of = np.array(names), np.array(fold_of)

    def share(penalty, train, test):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=penalty, tol=1e-6))
        with threadpoolctl.threadpool_limits(1):
            return model.fit(vectors[train], names[train]).score(vectors[test], names[test])

    found = {}
    for fold in "123":
        rest = fold_of != fold
        inner = [
            sum(share(c, rest & (fold_of != f), fold_of == f) for f in "123" if f != fold)
            for c in PENALTIES
        ]
        penalty = PENALTIES[int(np.argmax(inner))]
        found[fold] = (penalty, share(penalty, rest, ~rest))
    return found


def test_an_encoder_on_a_subset_with_baselines(things, clips, evaluate):
    scores, printed = evaluate(
        f"--encoder={things}/encoder.keras", "--subset=voiced", "--pooling=mean_max", "--baselines"
    )
    voiced = [clip for clip in clips if clip[1] != "middle"]
    _, names, fold_of, windows = zip(*voiced, strict=True)
    vectors = np.array([np.concatenate([w.mean(axis=0), w.max(axis=0)]) for w in windows])
    expected = expected_accuracies(vectors, names, fold_of)
    assert {f: (row["C"], row["accuracy"]) for f, row in scores["folds"].items()} == expected
    assert scores["accuracy"] == pytest.approx(np.mean([share for _, share in expected.values()]))
    assert (scores["clips"], scores["classes"], scores["subset"]) == (24, 2, "voiced")
    right = sum(scores["confusion"][name].get(name, 0) for name in ("high", "low"))
    assert right / 24 == pytest.approx(scores["accuracy"])
    assert sum(sum(row.values()) for row in scores["confusion"].values()) == 24

    # Three octaves apart, even statistics tell tones apart.
    baselines = scores["baselines"]
    assert baselines["log_mel_statistics"]["accuracy"] > 0.9
    assert baselines["log_mel_statistics"]["folds"]["1"]["pooling"] == "mean"
    assert baselines["untrained_encoder"]["folds"]["1"]["pooling"] == "mean_max"
    lines = printed.splitlines()
    assert f"{things}/tones, voiced: 2 classes; 24 clips in 3 folds" in lines
    (row,) = (line for line in lines if line.startswith("encoder "))
    deviation = np.std([share for _, share in expected.values()], ddof=1)
    assert row.split()[1:4] == [f"{100 * scores['accuracy']:.1f}", "±", f"{100 * deviation:.1f}"]
    (row,) = (line for line in lines if line.startswith("log mel statistics "))
    assert row.split()[3] == f"{100 * baselines['log_mel_statistics']['accuracy']:.1f}"


def test_log_mel_frames_beside_the_embeddings(things, clips, evaluate):
    scores, _ = evaluate(
        f"--encoder={things}/encoder.keras", "--log_mel", "--pooling=mean_max_std", "--baselines"
    )
    log_mel = LogMel()
    vectors = []
    for file, _, _, windows in clips:
        sound = soundfile.read(things / "tones" / file, dtype="float32")[0]
        frames = np.asarray(log_mel.spectrogram(sound[None]))[0]
        for reduce in (np.mean, np.max, np.std):
            vectors += [reduce(windows, axis=0), reduce(frames, axis=0)]
    vectors = np.concatenate(vectors).reshape(len(clips), 3 * (8 + 64))
    expected = expected_accuracies(vectors, [c[1] for c in clips], [c[2] for c in clips])
    assert [row["accuracy"] for row in scores["folds"].values()] == [
        s for _, s in expected.values()
    ]
    assert scores["log_mel"] is True
    # The baseline, of the same weights, is given them too.
    assert scores["baselines"]["untrained_encoder"]["accuracy"] == scores["accuracy"]
    assert scores["accuracy"] > evaluate(f"--encoder={things}/encoder.keras")[0]["accuracy"]


def test_an_encoder_for_each_fold(things, evaluate, tmp_path, call):
    for fold, size in (("1", 8), ("2", 8), ("3", 8), ("other", 6)):
        keras.utils.set_random_seed(10 + ord(fold[0]))
        encoder = Encoder(SmallBackbone(size, width=2))
        encoder.build((None, None))
        save_model(encoder, tmp_path / f"fold-{fold}.keras")
    names = [f"{tmp_path}/fold-{fold}.keras" for fold in "123"]
    pooling = "--pooling=mean,mean_max_std"
    own, _ = evaluate(f"--encoder={tmp_path}/fold-{{fold}}.keras", "--log_mel", pooling)
    each = [evaluate(f"--encoder={name}", "--log_mel", pooling)[0] for name in names]
    expected = {fold: scores["folds"][fold] for fold, scores in zip("123", each, strict=True)}
    assert own["folds"] == expected
    assert own["folds"] not in [scores["folds"] for scores in each]
    assert own["accuracy"] == pytest.approx(np.mean([f["accuracy"] for f in expected.values()]))
    assert own["sha256"] == {f: scores["sha256"] for f, scores in zip("123", each, strict=True)}
    baselines = {}
    for encoder in (f"{tmp_path}/fold-{{fold}}.keras", names[0]):
        scores, _ = evaluate(f"--encoder={encoder}", "--baselines")
        baselines[encoder] = scores["baselines"]
    assert len({json.dumps(scores) for scores in baselines.values()}) == 1

    def failure(protocol="folds"):
        result = call(
            "evaluate",
            f"--encoder={tmp_path}/fold-{{fold}}.keras",
            f"--dataset={things}/tones",
            f"--protocol={protocol}",
            f"--output={tmp_path}/scores.json",
        )
        assert result.status == 1
        return result.stderr

    (tmp_path / "fold-other.keras").replace(names[2])
    assert "fold-3.keras: has embeddings of 6 values; expected 8, as" in failure()
    encoder = Encoder(SmallBackbone(8, width=2), LogMel(low_hz=50.0))
    encoder.build((None, None))
    (tmp_path / "fold-2.keras").unlink()
    save_model(encoder, names[1])
    assert "fold-2.keras: low_hz of its front end is 50.0; expected 125.0, as" in failure()
    (tmp_path / "fold-2.keras").unlink()
    assert f"{names[1]}: " in failure()
    assert "; --encoder=" in failure()
    assert "{fold} needs --protocol=folds" in failure("splits")


def test_esc50_as_it_is_published(things, clips, tmp_path):
    (tmp_path / "meta").mkdir()
    (tmp_path / "audio").symlink_to(things / "tones" / "audio")
    rows = [
        f"{file.removeprefix('audio/')},{fold},0,{name},{name != 'middle'},1,A"
        for file, name, fold, _ in clips
    ]
    head = "filename,fold,target,category,esc10,src_file,take"
    (tmp_path / "meta" / "esc50.csv").write_text("\n".join([head, *rows]))
    every = open_fold_clips(tmp_path, 16000)
    assert every.clips.names == [file for file, *_ in clips]
    assert [every.classes[target] for target in every.targets] == [clip[1] for clip in clips]
    found, same = (
        open_fold_clips(tmp_path, 16000, "esc10"),
        open_fold_clips(things / "tones", 16000, "voiced"),
    )
    assert found.clips.names == same.clips.names
    assert found.clips.names == [file for file, name, *_ in clips if name != "middle"]
    assert found.clips.folds == same.clips.folds == list(8 * "1" + 8 * "2" + 8 * "3")
    assert found.classes == same.classes == ["high", "low"]
    np.testing.assert_array_equal(found.targets, 3 * (4 * [0] + 4 * [1]))
    says = r"true in a column 'voiced'; expected the name of a column of true and false \(esc10\)"
    with pytest.raises(InputError, match=says):
        open_fold_clips(tmp_path, 16000, "voiced")


class Exported(tf.Module):
    """What a SavedModel of another origin may look like."""

    def __init__(self, encoder):
        self.encoder = encoder

    @tf.function(input_signature=[tf.TensorSpec([None])])
    def __call__(self, waveform):
        patches = self.encoder.patch_embeddings(waveform[None])[0]
        return tf.zeros([3, 5]), patches, waveform


def test_stored_embeddings_and_a_saved_model_score_as_the_encoder_does(
    things, clips, evaluate, tmp_path, call
):
    pooling = "--pooling=mean_max_std"
    expected, _ = evaluate(f"--encoder={things}/encoder.keras", pooling)
    # Windows of a clip need not follow each other.
    order = np.random.default_rng(0).permutation(4 * len(clips))
    np.savez(
        tmp_path / "stored.npz",
        filenames=np.repeat([clip[0] for clip in clips], 4)[order],
        embeddings=np.concatenate([clip[3] for clip in clips])[order],
    )
    stored, printed = evaluate(f"--embeddings={tmp_path}/stored.npz", pooling)
    assert "\nembeddings " in printed
    written = call(
        "embed",
        f"--encoder={things}/encoder.keras",
        f"--input={things}/tones",
        f"--output={tmp_path}/embedded.parquet",
    )
    assert written.status == 0, written.stderr
    embedded, _ = evaluate(f"--embeddings={tmp_path}/embedded.parquet", pooling)
    module = Exported(keras.saving.load_model(things / "encoder.keras"))
    tf.saved_model.save(module, str(tmp_path / "saved"))
    (tmp_path / "saved" / "card.json").write_text('{"sample_rate": 16000}')
    saved, printed = evaluate(f"--saved_model={tmp_path}/saved", "--model_output=1", pooling)
    assert "\nSavedModel " in printed
    for scores in (stored, embedded, saved):
        for key in ("accuracy", "deviation", "folds", "confusion", "clips"):
            assert scores[key] == expected[key]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (["a.wav,x;y,1", "b.wav,y,2", "c.wav,x,3"], "a.wav has 2 classes; expected one"),
        (["a.wav,,1", "b.wav,y,2", "c.wav,x,3"], "a.wav has 0 classes; expected one"),
        (["a.wav,x,1", "b.wav,y,2", "c.wav,x,2"], "the clips are in 2 folds; expected 3 or more"),
        (["a.wav,x,1", "b.wav,y,2", "c.wav,x,3"], "the class 'y' are in the fold 2; expected some"),
        (["a.wav,x,", "b.wav,y,", "c.wav,x,"], "has no folds; expected a column fold"),
    ],
)
def test_labels_that_do_not_allow_it(things, tmp_path, call, rows, says):
    folder = tmp_path / "set"
    folder.mkdir()
    for name in "abc":
        soundfile.write(folder / f"{name}.wav", np.full(16000, 0.1), 16000)
    (folder / "labels.csv").write_text("\n".join(["filename,labels,fold", *rows]))
    result = call(
        "evaluate",
        f"--encoder={things}/encoder.keras",
        f"--dataset={folder}",
        "--protocol=folds",
        f"--output={tmp_path}/scores.json",
    )
    assert (result.status, result.stderr.count("\n")) == (1, 1)
    assert f"{folder}: " in result.stderr
    assert says in result.stderr
    assert not (tmp_path / "scores.json").exists()
