"""Models called by a name: those that come with the package, and those that are fetched."""

import csv
import functools
import hashlib
import json

import numpy as np
import pytest
import soundfile

import sepssl
from sepssl import weights
from sepssl.configs import encoder_shipped, separator_shipped
from sepssl.data.scenes import SceneConfig
from sepssl.data.scenes.clips import SceneClips
from sepssl.errors import InputError
from sepssl.evaluation.baselines import baselines
from sepssl.evaluation.retrieval import query_by_example
from sepssl.representation.build import make_encoder
from sepssl.representation.embed import embed_recording
from sepssl.separation.build import make_separator
from sepssl.separation.metrics import SeparationScores
from sepssl.serialization import save_model


@pytest.fixture(scope="module")
def separators():
    return {name: sepssl.load_separator(name) for name in weights.registry()["Separator"]}


def test_all_shipped_files_are_small_and_attributed():
    kinds = weights.registry().values()
    files = [weights.FOLDER / entry["file"] for named in kinds for entry in named.values()]
    assert sum(file.stat().st_size for file in files) < 1e7
    assert {file.name for file in files} == {file.name for file in weights.FOLDER.glob("*.keras")}
    with open(weights.FOLDER / "ATTRIBUTION.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    clips = [row for row in rows if row["clip"].startswith("ESC-50 ")]
    assert len(clips) == 1401
    assert all(row["derived from"] and row["by"] for row in clips)
    assert {row["licence"] for row in rows} == {"CC0", "CC BY", "CC BY 3.0", "CC BY 4.0"}
    # ESC-50's names begin with the fold: nothing of fold 5 was heard.
    assert {row["clip"].removeprefix("ESC-50 ")[0] for row in clips} == set("1234")


@pytest.mark.parametrize("name", separator_shipped.NAMES)
def test_the_configuration_describes_the_shipped_network(separators, name):
    config = separator_shipped.get_config(name)
    described = make_separator(config.separator, config.data.sample_rate)
    described.build((None, None))
    shipped = separators[name]
    assert shipped.sample_rate == described.sample_rate
    described.set_weights(shipped.get_weights())
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 4000)).astype(np.float32)
    np.testing.assert_array_equal(shipped(noise), described(noise))


def test_scores_of_shipped_separators_on_built_in_scenes(separators):
    scenes = SceneClips(SceneConfig(sample_rate=16000, duration=4.0), 1, "test", 12)
    scores = {name: SeparationScores() for name in separators}
    for index in range(len(scenes)):
        mixture, sources = scenes.read_with_sources(index)
        for name, separator in separators.items():
            scores[name].add(mixture, sources, separator.separate(mixture, 16000))
    measured = {
        name: {key: round(score.result()[key], 1) for key in ("1S", "MSi")}
        for name, score in scores.items()
    }
    assert measured == {
        "small": {"1S": 12.9, "MSi": 7.7},
        "small-8": {"1S": 13.1, "MSi": 9.2},
        "small-mixit": {"1S": 14.1, "MSi": 6.6},
    }


def test_the_configuration_describes_the_shipped_encoder():
    config = encoder_shipped.get_config()
    network = make_encoder(config.encoder, config.data.sample_rate)
    assert config.train.whitening_pairs
    backbone = sepssl.WhitenedBackbone(network.backbone, network.embedding_size)
    described = sepssl.Encoder(backbone, network.log_mel)
    described.build()
    shipped = sepssl.load_encoder("small")
    described.set_weights(shipped.get_weights())
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 20000)).astype(np.float32)
    np.testing.assert_array_equal(shipped(noise), described(noise))


def test_scores_of_the_shipped_encoder_on_built_in_scenes():
    scenes = SceneClips(SceneConfig(sample_rate=16000, duration=4.0), 1, "test", 60)
    encoder = sepssl.load_encoder("small")
    waveforms = [scenes.read(index) for index in range(len(scenes))]
    statistics, _ = baselines(encoder)
    scores = [
        query_by_example(np.stack([embed(waveform) for waveform in waveforms]), scenes.labels)
        for embed in (functools.partial(embed_recording, encoder), statistics)
    ]
    assert [round(score.map, 3) for score in scores] == [0.218, 0.136]


def test_names_are_resolved_and_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert weights.model_file("small", "Separator") == weights.FOLDER / "small.keras"
    assert weights.is_name("small", "Separator")
    (tmp_path / "small").mkdir()  # as a run's folder may be called
    assert weights.is_name("small", "Separator")
    assert weights.model_file("small", "Separator") == weights.FOLDER / "small.keras"
    (tmp_path / "small").rmdir()
    (tmp_path / "small").touch()
    assert not weights.is_name("small", "Separator")
    with pytest.raises(InputError, match=r"^small: not a \.keras file; expected a \.keras file"):
        weights.model_file("small", "Separator")


def test_unknown_names_and_names_of_another_kind():
    with pytest.raises(
        InputError, match=r"^large: no such file; .* or small or small-8 or small-mixit$"
    ):
        weights.model_file("large", "Separator")
    with pytest.raises(InputError, match=r"^small-mixit: names a sepssl Separator; expected a \.k"):
        weights.model_file("small-mixit", "Encoder")


def test_models_of_the_package_have_a_license():
    for kind, named in weights.registry().items():
        for name in named:
            assert weights.license_of(name, kind) == "Apache-2.0"
    assert weights.license_of("other.keras", "Encoder") == ""


def test_a_file_that_is_missing_from_the_package_is_named():
    entries = {"lost": {"file": "lost.keras", "sha256": "0" * 64}}
    with pytest.raises(
        InputError, match=r"lost\.keras: cannot be read .*; expected the package to be"
    ):
        weights.model_file("lost", "Separator", entries)


def test_a_url_is_fetched_once_and_checked(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source = tmp_path / "elsewhere.keras"
    source.write_bytes(b"some model")
    entry = {
        "url": source.as_uri(),
        "sha256": hashlib.sha256(b"some model").hexdigest(),
    }
    entries = {"theirs": entry, "changed": entry | {"sha256": "0" * 64}}
    with pytest.raises(InputError, match=r"elsewhere.keras: has SHA-256 \w{64}; expected 0{64}$"):
        weights.model_file("changed", "Separator", entries)
    assert not (tmp_path / "cache").exists()
    assert weights.model_file("theirs", "Separator", entries).read_bytes() == b"some model"
    source.unlink()
    kept = weights.model_file("theirs", "Separator", entries)
    assert kept.read_bytes() == b"some model"
    kept.write_bytes(b"another")
    with pytest.raises(InputError, match="has SHA-256"):
        weights.model_file("theirs", "Separator", entries)
    kept.unlink()
    for url in (source.as_uri(), "no url"):
        with pytest.raises(InputError, match="cannot be fetched"):
            weights.model_file("theirs", "Separator", {"theirs": entry | {"url": url}})
    assert list(kept.parent.iterdir()) == []


def test_half_precision_rounds_the_weights_and_nothing_else(separators, tmp_path):
    weights_before = [
        value + np.float32(1e-5) * np.sign(value) for value in separators["small"].get_weights()
    ]
    separator = make_separator(separator_shipped.get_config().separator, 16000)
    separator.build((None, None))
    separator.set_weights(weights_before)
    whole, half = tmp_path / "whole.keras", tmp_path / "half.keras"
    save_model(separator, whole)
    save_model(separator, half, half_precision=True)
    assert half.stat().st_size < 0.5 * whole.stat().st_size
    loaded = sepssl.load_separator(half)
    for before, after in zip(weights_before, loaded.get_weights(), strict=True):
        assert after.dtype == np.float32
        np.testing.assert_array_equal(after, before.astype(np.float16).astype(np.float32))


def test_weights_beyond_float16_are_refused(separators, tmp_path):
    separator = make_separator(separator_shipped.get_config().separator, 16000)
    separator.build((None, None))
    largest = separator.get_weights()
    largest[0][:] = 1e5
    separator.set_weights(largest)
    with pytest.raises(InputError, match=r"half\.keras: .* is beyond the range of float16$"):
        save_model(separator, tmp_path / "half.keras", half_precision=True)
    assert list(tmp_path.iterdir()) == []


def test_separate_uses_the_shipped_separator_where_none_is_named(call, tmp_path):
    noise = np.random.default_rng(0).normal(0, 0.1, 16000).astype(np.float32)
    soundfile.write(tmp_path / "noise.wav", noise, 16000)  # in 16 bits
    call("separate", f"--input={tmp_path}/noise.wav", f"--output={tmp_path}/channels")
    files = sorted((tmp_path / "channels").glob("noise_channel*.wav"))
    channels = sepssl.load_separator("small").separate(noise, 16000)
    assert len(files) == len(channels) == 4
    for file, channel in zip(files, channels, strict=True):
        np.testing.assert_allclose(soundfile.read(file)[0], channel, atol=4 / 32768)


@pytest.mark.slow
def test_a_shipped_separator_is_exported_by_its_name(call, tmp_path):
    assert call("export", "--separator=small", f"--output={tmp_path}/exported").status == 0
    card = json.loads((tmp_path / "exported" / "card.json").read_text())
    origin = {"file": "small.keras", "sha256": weights.registry()["Separator"]["small"]["sha256"]}
    assert card["training"] == [origin]
    assert (card["license"], card["attribution"]) == ("Apache-2.0", ["ATTRIBUTION.csv"])
    attribution = (tmp_path / "exported" / "ATTRIBUTION.csv").read_bytes()
    assert attribution == (weights.FOLDER / "ATTRIBUTION.csv").read_bytes()
