import json

import numpy as np
import pytest
import soundfile
import tensorflow as tf

import sepssl
from sepssl.configs import encoder_smoke, separator_smoke
from sepssl.data.sources import open_clips
from sepssl.data.splits import make_splits
from sepssl.data.store import ClipStore
from sepssl.errors import InputError
from sepssl.representation.whitening import pair_whitening
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.serialization import save_model
from sepssl.training.clips import labelled_for_training, open_recordings, training_parts
from sepssl.training.encoder import train_encoder
from sepssl.training.separator import train_separator

pytestmark = pytest.mark.usefixtures("eager")


def smoke(**changes):
    config = encoder_smoke.get_config()
    config.train.update(steps=2, batch_size=4, log_every=1, state_steps=(2,), probe_clips=0)
    config.data.num_clips = 16
    config.encoder.update(embedding_size=16, width=4)
    config.update_from_flattened_dict(changes)
    return config


def records(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def separator(tmp_path):
    made = Separator(3, STFTBasis(256, 128), TDCN(8, 12, 2, 1))
    made.build((None, None))
    save_model(made, tmp_path / "separator.keras")
    return str(tmp_path / "separator.keras")


@pytest.mark.slow
@pytest.mark.parametrize("online", [False, True])
def test_all_pairings_of_separators_and_true_sources(tmp_path, separator, online):
    changes = {
        "views.mixture_mixture": 0.2,
        "views.mixture_channel": 0.5,
        "views.channel_channel": 0.3,
        "views.separators": separator if online else f"{separator},true_sources",
        "views.online": online,
        "views.example_mixing": 0.5,
        "views.mixing_domain": "log_mel",
        "views.equalization_db": 6.0,
        "objective.learn_temperature": True,
        "train.steps": 4,
        "train.batch_size": 8,
        "train.log_every": 2,
        "train.state_steps": (4,),
        "train.probe_every": 2,
        "train.probe_clips": 60,
    }
    run = train_encoder(smoke(**changes), tmp_path / "run")
    found = records(run)
    assert [r["step"] for r in found] == [2, 2, 4, 4]
    assert "validation/probe_map" in found[1]
    assert found[2]["temperature"] != found[0]["temperature"]
    shares = [found[0][f"{a}_share"] for a in ("mixture_mixture", "mixture_channel",
                                               "channel_channel")]  # fmt: skip
    assert sum(shares) == pytest.approx(1.0)
    assert (run.path / "views.png").stat().st_size > 10000
    stored = sorted(p.parent.name.split("-")[0] for p in run.path.glob("*/index.jsonl"))
    assert stored == (["clips"] if online else ["channels", "clips", "sources"])
    assert sepssl.load_encoder(run.final).embedding_size == 16


def test_an_oracle_leaves_the_separators_store_of_sources_alone(tmp_path):
    # In a cache that both share: training a separator on sources keeps them beside the mixtures.
    views = {"views.mixture_mixture": 0.0, "views.mixture_channel": 1.0}
    cache = {"data.cache": str(tmp_path / "cache"), "views.separators": "true_sources"}
    train_encoder(smoke(**views, **cache), tmp_path / "run")
    made = sorted(path.name.split("-")[0] for path in tmp_path.glob("cache/*"))
    assert made == ["clips", "sources"]


def test_a_source_that_only_decoding_finds_broken(tmp_path, capsys):
    random = np.random.default_rng(0)
    for i in range(10):
        (tmp_path / "clips" / f"{i}_sources").mkdir(parents=True)
        sources = 0.1 * random.normal(size=[2, 32000])
        soundfile.write(tmp_path / "clips" / f"{i}.wav", sources.sum(axis=0), 16000)
        for name, source in zip("ab", sources, strict=True):
            soundfile.write(tmp_path / "clips" / f"{i}_sources" / f"{name}.flac", source, 16000)
    path = tmp_path / "clips" / "3_sources" / "b.flac"
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + 2000] = bytes(2000)
    path.write_bytes(content)
    views = {"views.mixture_mixture": 0.0, "views.mixture_channel": 1.0}
    data = {"data.directory": str(tmp_path / "clips"), "views.separators": "true_sources"}
    run = train_encoder(smoke(**views, **data), tmp_path / "run")
    assert len(records(run)) == 2
    told = capsys.readouterr().out
    assert "skipped 1:" in told
    assert "3_sources/b.flac" in told


def test_stored_channels_are_those_of_whole_parts(tmp_path, separator):
    # As separation in the graph finds them. A recording of 40 s is one part of about 32 s.
    (tmp_path / "clips").mkdir()
    for i in range(2):
        sound = 0.1 * np.random.default_rng(i).normal(size=40 * 16000)
        soundfile.write(tmp_path / "clips" / f"{i}.wav", sound, 16000)
    changes = {"data.directory": str(tmp_path / "clips"), "data.clip_seconds": 32.0,
               "train.batch_size": 2, "views.separators": separator,
               "views.mixture_mixture": 0.0, "views.mixture_channel": 1.0}  # fmt: skip
    run = train_encoder(smoke(**changes), tmp_path / "run")
    mixtures = ClipStore(next(run.path.glob("clips-*")))
    channels = ClipStore(next(run.path.glob("channels-*")))
    for i in range(2):
        expected = np.asarray(sepssl.load_separator(separator)(mixtures.read(i)))[0]
        found = channels.read(i)
        assert found.shape == (3, 40 * 16000)
        # 16 bits of the loudest sample.
        np.testing.assert_allclose(found, expected, atol=2 * np.abs(expected).max() / 32767)


def test_a_cache_is_shared_and_grows_and_a_run_keeps_its_clips(tmp_path, separator, capsys):
    (tmp_path / "clips").mkdir()

    def write(i, seed):
        sound = 0.1 * np.random.default_rng(seed).normal(size=32000)
        soundfile.write(tmp_path / "clips" / f"{i}.wav", sound, 16000)

    def train(run, verbose=True, **changes):
        changes = {"data.directory": str(tmp_path / "clips"), "views.mixture_mixture": 0.0,
                   "data.cache": str(tmp_path / "cache"), "views.mixture_channel": 1.0,
                   "views.separators": separator} | changes  # fmt: skip
        train_encoder(smoke(**changes), tmp_path / run, verbose)
        lines = [len(p.read_text().splitlines()) for p in sorted(tmp_path.glob("cache/*/*.jsonl"))]
        return lines, capsys.readouterr().out

    for i in range(8):
        write(i, seed=i)
    lines, _ = train("run")
    assert lines == [8, 8]
    for i in range(8):
        write(i, seed=i)  # only their times
    lines, said = train("run", **{"data.cache": str(tmp_path / "cache")})
    assert "decoding: " not in said
    before = [p.stat().st_size for p in sorted(tmp_path.glob("cache/*/samples.int16"))]
    write(8, seed=8)
    with pytest.raises(InputError, match=r"run: holds a run on 8 clips, now there are 9; expected"):
        train("run")
    # Channels follow: one recording is decoded and separated, where eight are there.
    train("larger")
    after = [p.stat().st_size for p in sorted(tmp_path.glob("cache/*/samples.int16"))]
    assert [9 * b // 8 for b in before] == after
    write(3, seed=33)  # of the same name and size
    (tmp_path / "clips" / "9.wav").write_text("no sound")
    assert train("other", verbose=False)[1] == ""
    after = [p.stat().st_size for p in sorted(tmp_path.glob("cache/*/samples.int16"))]
    assert [10 * b // 8 for b in before] == after


@pytest.mark.slow
def test_separator_and_encoder_share_scenes_of_one_cache(tmp_path):
    config = separator_smoke.get_config()
    config.data.update(num_clips=24, num_validation=0, cache=str(tmp_path / "cache"))
    config.train.update(steps=1, warmup_steps=0, state_steps=(1,))
    train_separator(config, tmp_path / "separator")
    train_encoder(smoke(**{"data.cache": str(tmp_path / "cache")}), tmp_path / "encoder")
    (index,) = tmp_path.glob("cache/clips-*/index.jsonl")
    assert len(index.read_text().splitlines()) == 24


def test_an_encoder_that_collapses_says_so(tmp_path, capsys):
    # All recordings are the same: so are their embeddings.
    sound = 0.1 * np.random.default_rng(0).normal(size=15600)  # one patch
    for i in range(8):
        soundfile.write(tmp_path / f"{i}.wav", sound, 16000)
    changes = {"data.directory": str(tmp_path), "views.time_masks": 0, "views.frequency_masks": 0,
               "views.equalization_db": 0.0, "views.max_distance_seconds": 0.0}  # fmt: skip
    train_encoder(smoke(**changes), tmp_path / "run")
    said = capsys.readouterr().out
    assert said.count("the encoder is collapsing: embedding_") == 1
    assert said.count("similarity maximization is not learning") == 1


def test_pairs_without_a_channel_are_counted_and_said(tmp_path, separator, capsys):
    # All channels of an untrained separator are quieter than the mixture.
    changes = {"views.mixture_channel": 1.0, "views.mixture_mixture": 0.0,
               "views.separators": separator, "views.mixture_floor_db": 0.0}  # fmt: skip
    run = train_encoder(smoke(**changes), tmp_path / "run")
    assert records(run)[-1]["no_channel_share"] > 0.5
    assert capsys.readouterr().out.count("(expected at most 0.05): this share of pairs") == 1


def test_training_on_labels(tmp_path):
    tf.config.run_functions_eagerly(False)  # as many steps are worth a graph
    changes = {"train.steps": 30, "train.log_every": 15, "train.batch_size": 8,
               "train.state_steps": (30,)}  # fmt: skip
    config = smoke(task="supervised", **changes)
    found = records(train_encoder(config, tmp_path / "run"))
    assert found[-1]["loss"] < 0.9 * found[0]["loss"]


def test_labels_of_a_folder_are_those_of_its_recordings(tmp_path, capsys):
    for name in ("low", "high"):
        (tmp_path / "clips" / name).mkdir(parents=True)
        for i in range(10):
            sound = 0.1 * np.random.default_rng(i).normal(size=16000 * 4)
            soundfile.write(tmp_path / "clips" / name / f"{i}.wav", sound, 16000)
    config = smoke(
        task="supervised", **{"data.directory": str(tmp_path / "clips"), "train.batch_size": 4}
    )
    recordings = open_recordings(config.data, labels=True)
    clips = training_parts(labelled_for_training(recordings, config.data), config.data)
    for name, found in zip(clips.names, clips.labels, strict=True):
        assert found.tolist() == ([1, 0] if name.startswith("high/") else [0, 1])
    # Only what is neither validated nor tested on, each recording in two parts of 2 s.
    train = make_splits(open_clips(tmp_path / "clips", 16000, labels=True), "clips")["train"]
    assert set(clips.recordings) == set(train.names)
    assert len(clips) == 2 * len(train)
    run = train_encoder(config, tmp_path / "run")
    assert records(run)[0]["loss"] == pytest.approx(2 * np.log(2), rel=0.5)

    (tmp_path / "clips" / "labels.csv").write_text("filename,labels\nlow/1.wav,a\nhigh/0.wav,b\n")
    with pytest.raises(InputError, match="none of 2 labelled recordings falls into the train"):
        train_encoder(config, tmp_path / "other")
    (tmp_path / "clips" / "labels.csv").unlink()
    soundfile.write(tmp_path / "clips" / "none.wav", sound, 16000)
    with pytest.raises(InputError, match=r"none\.wav: is not in a subfolder"):
        train_encoder(config, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_labels_of_scenes_are_those_of_the_scenes():
    clips = open_recordings(smoke().data, labels=True)
    for index in range(3, 6):
        np.testing.assert_array_equal(clips.labels[index], clips.scene(index).labels)


@pytest.mark.slow
def test_separation_in_the_graph_changes_nothing_but_rounding(tmp_path, separator):
    changes = {"views.separators": separator, "views.mixture_mixture": 0.0,
               "views.mixture_channel": 1.0, "train.log_every": 1}  # fmt: skip
    stored, online = (
        records(train_encoder(smoke(**changes, **{"views.online": kind}), tmp_path / str(kind)))
        for kind in (False, True)
    )
    # The first step sees equal weights; 16 bits of a store are all that differs.
    assert online[0]["loss"] == pytest.approx(stored[0]["loss"], rel=1e-4)
    assert online[-1]["loss"] == pytest.approx(stored[-1]["loss"], rel=1e-2)


def test_a_label_file_that_cannot_be_used_only_costs_the_probe(tmp_path, capsys):
    for i in range(8):
        sound = 0.1 * np.random.default_rng(i).normal(size=16000)
        soundfile.write(tmp_path / f"{i}.wav", sound, 16000)
    (tmp_path / "labels.csv").write_text("fname,label\n0.wav,dog\n")
    changes = {"data.directory": str(tmp_path), "train.probe_clips": 10}
    train_encoder(smoke(**changes), tmp_path / "run")
    assert "labels and splits are ignored: " in capsys.readouterr().out


def test_patches_too_far_apart_for_clips_separated_in_the_graph(tmp_path, separator):
    changes = {"views.mixture_mixture": 0.0, "views.mixture_channel": 1.0, "views.online": True,
               "views.separators": separator, "views.max_distance_seconds": 1.5}  # fmt: skip
    with pytest.raises(InputError, match=r"data\.clip_seconds=2"):
        train_encoder(smoke(**changes), tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"objective.similarity_weight": 0.0, "objective.coincidence_weight": 0.0},
         "objective: similarity_weight=0"),
        ({"views.overlap": False, "views.max_distance_seconds": 0.5}, "at least 0.975"),
        ({"views.mixture_mixture": 0.0, "views.mixture_channel": 1.0, "views.online": True,
          "views.separators": "true_sources"}, "expected views.online=False"),
        ({"views.min_mixing_db": 0.0}, "min_mixing_db=0.0, max_mixing_db=-5.0"),
    ],
)  # fmt: skip
def test_what_does_not_go_together(tmp_path, changes, says):
    with pytest.raises(InputError, match=says):
        train_encoder(smoke(**changes), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_training_whitens_its_last_encoder_by_its_own_pairs(tmp_path, monkeypatch):
    used = []

    def watched(encoder, a, b):
        used.append((a, b))
        return sepssl.whitened(encoder, a, b)

    monkeypatch.setattr("sepssl.training.encoder.whitened", watched)
    plain = train_encoder(smoke(), tmp_path / "plain")
    assert not used
    run = train_encoder(smoke(**{"train.whitening_pairs": 100}), tmp_path / "run")
    ((a, b),) = used
    batch = smoke().train.batch_size
    assert a.shape == b.shape == (-(-100 // batch) * batch, 16)
    found, other = sepssl.load_encoder(run.final), sepssl.load_encoder(plain.final)
    for weight, expected in zip(
        found.backbone.backbone.weights, other.backbone.weights, strict=True
    ):
        np.testing.assert_array_equal(weight, expected)
    for weight, expected in zip(found.backbone.get_map(), pair_whitening(a, b), strict=True):
        np.testing.assert_allclose(weight, expected, rtol=1e-6, atol=1e-7)

    def cosines(x, y):
        x, y = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (x, y))
        return x @ y.T

    alike = cosines(a, b)  # two views of a clip are more alike than views of two
    assert np.diag(alike).mean() > alike.mean() + 0.002
    assert sepssl.load_encoder(run.state(smoke().train.steps)).backbone.embedding_size == 16


def test_a_whitened_run_goes_on_from_the_network_alone(tmp_path):
    def layers(path):
        backbone = sepssl.load_encoder(path).backbone
        return type(backbone).__name__, type(getattr(backbone, "backbone", None)).__name__

    changes = {"train.whitening_pairs": 20, "train.state_steps": ()}
    run = train_encoder(smoke(**changes), tmp_path / "run")
    assert layers(run.final) == ("WhitenedBackbone", "SmallBackbone")
    state = sepssl.load_encoder(run.state(2)).get_weights()
    more = train_encoder(smoke(**changes, **{"train.steps": 4}), tmp_path / "run")
    for weight, expected in zip(sepssl.load_encoder(run.state(2)).weights, state, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert layers(run.state(2)) == ("SmallBackbone", "NoneType")
    assert layers(more.final) == ("WhitenedBackbone", "SmallBackbone")
    # As a start, the network counts; and it is whitened once, whatever it was before.
    changes["train.init_from"] = str(run.final)
    other = train_encoder(smoke(**changes), tmp_path / "other")
    assert layers(other.state(0)) == ("SmallBackbone", "NoneType")
    start, end = sepssl.load_encoder(other.state(0)), sepssl.load_encoder(more.final)
    for weight, expected in zip(start.weights, end.backbone.backbone.weights, strict=True):
        np.testing.assert_array_equal(weight, expected)
    assert layers(other.final) == ("WhitenedBackbone", "SmallBackbone")
