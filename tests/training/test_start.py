import json
import shutil

import numpy as np
import pytest
import tensorflow as tf

import sepssl
from sepssl.audio.panns_log_mel import PannsLogMel
from sepssl.configs import encoder_smoke, separator_smoke
from sepssl.data.store import ClipStore
from sepssl.errors import InputError
from sepssl.export import save_encoder
from sepssl.representation import Cnn14Backbone, Encoder, SmallBackbone
from sepssl.separation import TDCN, LearnedBasis, Separator, STFTBasis
from sepssl.separation.google_checkpoint import import_google_checkpoint, variable_names
from sepssl.serialization import save_model
from sepssl.training.encoder import train_encoder
from sepssl.training.separator import train_separator


def smoke(stage, **changes):
    config = {"separator": separator_smoke, "encoder": encoder_smoke}[stage].get_config()
    config.data.update(num_clips=8, clip_seconds=1.0)
    config.train.update(steps=2, warmup_steps=0, log_every=1, state_steps=(0, 2), batch_size=8)
    if stage == "separator":
        config.data.num_validation = 0
        config.train.crop_seconds = 0.5
    else:
        config.train.probe_clips = 0
        config.views.max_distance_seconds = 0.0
        config.encoder.update(embedding_size=8, width=4)
    config.update_from_flattened_dict(changes)
    return config


def saved(model, path):
    model.build((None, None))
    save_model(model, path)
    return str(path)


def bird_checkpoint(prefix):
    """As Google's bird models: 22,050 Hz, a learned basis of 55 samples every 28."""
    written = Separator(4, LearnedBasis(16, 55, 28), TDCN(8, 12, 2, 1), sample_rate=22050)
    written.build((None, None))
    tensors = {}
    for variable, names in variable_names(written):
        parts = np.asarray(variable) if len(names) > 1 else [np.asarray(variable)]
        tensors |= dict(zip(names, parts, strict=True))
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )
    return prefix


@pytest.mark.slow
def test_a_bird_model_is_imported_trained_used_for_views_and_its_encoder_exported(
    forked_exports, tmp_path
):
    imported = import_google_checkpoint(bird_checkpoint(tmp_path / "bird"), 22050, None, 2)
    start = saved(imported, tmp_path / "bird.keras")
    config = smoke("separator", **{"train.init_from": start, "data.sample_rate": 22050})
    run = train_separator(config, tmp_path / "separator")
    # It starts from these very weights, and has other ones after two steps.
    kept, bird = (sepssl.load_separator(path) for path in (run.state(0), run.final))
    for found, expected in zip(kept.get_weights(), imported.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    pairs = zip(bird.get_weights(), kept.get_weights(), strict=True)
    assert 0 < max(np.abs(after - before).max() for after, before in pairs) < 0.02
    assert (bird.sample_rate, bird.basis.frame_length, bird.num_sources) == (22050, 55, 4)

    # At the rate of the encoder, not its own: resampled there and back.
    views = {"views.mixture_mixture": 0.0, "views.mixture_channel": 1.0,
             "views.separators": str(run.final)}  # fmt: skip
    encoder_run = train_encoder(smoke("encoder", **views), tmp_path / "encoder")
    stores = [ClipStore(p.parent) for p in sorted(encoder_run.path.rglob("index.jsonl"))]
    channels, mixtures = sorted(stores, key=lambda store: -store.num_rows(0))
    expected = bird.separate(mixtures.read(0)[0], 16000)
    assert channels.read(0).shape == expected.shape == (4, 16000)
    np.testing.assert_allclose(channels.read(0), expected, atol=2 * np.abs(expected).max() / 32767)
    save_encoder(sepssl.load_encoder(encoder_run.final), tmp_path / "exported")
    waveform = np.random.default_rng(0).normal(size=(1, 20000)).astype(np.float32)
    np.testing.assert_allclose(
        tf.saved_model.load(str(tmp_path / "exported"))(waveform),
        sepssl.load_encoder(encoder_run.final)(waveform),
        atol=1e-5,
    )
    # And an encoder of its own rate.
    own_rate = smoke("encoder", **views, **{"data.sample_rate": 22050})
    own = train_encoder(own_rate, tmp_path / "own")
    assert sepssl.load_encoder(own.final).log_mel.sample_rate == 22050


@pytest.mark.slow
@pytest.mark.parametrize("task", ["encoder", "supervised"])
def test_an_encoder_starts_from_a_file_with_its_rate_and_front_end(tmp_path, task, capsys):
    """As sepssl-import-panns-checkpoint makes them."""
    made = Encoder(Cnn14Backbone(8, 2), PannsLogMel(32000))
    start = saved(made, tmp_path / "panns.keras")
    config = smoke("encoder", task=task,
                   **{"train.init_from": start, "data.sample_rate": 32000})  # fmt: skip
    run = train_encoder(config, tmp_path / "run")
    kept = sepssl.load_encoder(run.state(0))
    for found, expected in zip(kept.get_weights(), made.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    trained = sepssl.load_encoder(run.final)
    assert isinstance(trained.log_mel, PannsLogMel)
    assert isinstance(trained.backbone, Cnn14Backbone)
    assert not np.array_equal(trained.backbone.dense.kernel, made.backbone.dense.kernel)
    assert f"starting from the network in {start}; encoder.* is ignored" in capsys.readouterr().out


def test_the_front_end_of_panns_from_the_configuration(eager, tmp_path):
    changes = {"encoder.front_end": "panns", "data.sample_rate": 32000}
    run = train_encoder(smoke("encoder", **changes), tmp_path / "run")
    log_mel = sepssl.load_encoder(run.final).log_mel
    assert isinstance(log_mel, PannsLogMel)
    assert log_mel.sample_rate == 32000


@pytest.mark.slow
def test_a_run_is_known_by_what_is_in_the_file_it_starts_from(tmp_path):
    start = saved(Encoder(SmallBackbone(8, width=4)), tmp_path / "a.keras")
    run = train_encoder(smoke("encoder", **{"train.init_from": start}), tmp_path / "run")
    kept = json.loads((run.path / "config.json").read_text())
    assert kept["train"]["init_from"].startswith("sha256:")
    assert str(tmp_path) not in json.dumps(kept["train"] | kept["encoder"])
    # Moved, and under other keys that mean nothing: the same run.
    moved = shutil.move(start, tmp_path / "b.keras")
    again = smoke("encoder", **{"train.init_from": str(moved), "encoder.width": 6})
    train_encoder(again, tmp_path / "run")
    other = saved(Encoder(SmallBackbone(8, width=4)), tmp_path / "other.keras")
    for path in (other, ""):
        with pytest.raises(InputError, match=r"holds a run with .*(init_from|encoder)"):
            train_encoder(smoke("encoder", **{"train.init_from": path}), tmp_path / "run")


def test_what_a_run_cannot_start_from_is_refused_before_any_work(tmp_path):
    bird = saved(Separator(4, STFTBasis(64, 32), TDCN(8, 12, 2, 1), sample_rate=22050),
                 tmp_path / "bird.keras")  # fmt: skip
    views = {"views.mixture_mixture": 0.0, "views.mixture_channel": 1.0, "views.separators": bird}
    for stage, changes, says in (
        ("separator", {"train.init_from": bird}, "expected --config.data.sample_rate=22050, not"),
        ("encoder", {"train.init_from": bird}, "holds a Separator; expected"),
        ("encoder", {"train.init_from": "none.keras"}, "none.keras: no such file"),
        ("encoder", {"encoder.front_end": "stft"}, "encoder.front_end='stft': expected one of"),
        ("encoder", views | {"views.online": True}, "or views.online=False, which resamples"),
    ):
        train = {"separator": train_separator, "encoder": train_encoder}[stage]
        with pytest.raises(InputError, match=says):
            train(smoke(stage, **changes), tmp_path / "run")
        assert not (tmp_path / "run").exists()
