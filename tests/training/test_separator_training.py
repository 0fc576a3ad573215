import json

import numpy as np
import pytest
import soundfile

from sepssl.configs import separator_smoke
from sepssl.errors import InputError
from sepssl.reports.curves import draw_curves
from sepssl.separation.separator import load_separator
from sepssl.training.clips import mixtures
from sepssl.training.loop import log_spaced_steps
from sepssl.training.monitors import TrainingDiverged
from sepssl.training.separator import train_separator

pytestmark = pytest.mark.usefixtures("eager")


def write_fuss(folder, count, num_sources=2):
    rng = np.random.default_rng(0)
    for i in range(count):
        sources = 0.1 * rng.normal(size=(num_sources, 8000))
        (folder / f"{i:02d}_sources").mkdir(parents=True)
        soundfile.write(folder / f"{i:02d}.wav", sources.sum(axis=0), 16000)
        for n, source in enumerate(sources):
            soundfile.write(folder / f"{i:02d}_sources" / f"{n}.wav", source, 16000)


def config_of(folder, **train):
    config = separator_smoke.get_config()
    config.data.update(directory=str(folder), clip_seconds=0.5)
    config.train.update(steps=2, warmup_steps=0, crop_seconds=0.25, state_steps=())
    config.separator.update(bottleneck_channels=8, conv_channels=12, dilations_per_repeat=1)
    config.train.update(train)
    return config


def records_of(run):
    return [json.loads(line) for line in (run.path / "metrics.jsonl").read_text().splitlines()]


def test_steps_of_the_kept_states():
    assert log_spaced_steps(10000) == (0, 30, 100, 300, 1000, 3000, 10000)
    assert log_spaced_steps(2000) == (0, 30, 100, 300, 1000, 2000)
    assert log_spaced_steps(5) == (0, 5)


def test_crops_played_backwards_are_trained_on(tmp_path):
    write_fuss(tmp_path / "data", 24)
    losses = []
    for fraction in (0.0, 1.0):
        config = config_of(tmp_path / "data", steps=1, log_every=1, reversed_fraction=fraction)
        run = train_separator(config, tmp_path / str(fraction), verbose=False)
        losses.append(next(record["loss"] for record in records_of(run) if "loss" in record))
    assert abs(losses[0] - losses[1]) > 1e-4


@pytest.mark.slow
def test_a_fuss_folder_trains_with_and_without_its_sources(tmp_path, capsys):
    write_fuss(tmp_path / "data", 24)
    config = config_of(tmp_path / "data", supervised_fraction=0.5)
    config.data.update(decoder="tensorflow")
    for file in (tmp_path / "data").rglob("*.wav"):
        sound, rate = soundfile.read(file)
        soundfile.write(file, sound, rate, subtype="PCM_24")
    with pytest.raises(InputError, match="decoder 'tensorflow' does not read WAV of PCM_24"):
        train_separator(config, tmp_path / "mixed")
    config.data.update(decoder="soundfile")  # in the same folder, of which nothing came
    mixed = train_separator(config, tmp_path / "mixed")
    # A tenth is held out, with sources: scores and MoMi.
    validated = [r for r in records_of(mixed) if "validation/MoMi" in r]
    assert [r["step"] for r in validated] == [0, 2]
    assert "validation/SI-SNRi_2" in validated[0]
    assert {p.name for p in (mixed.path / "states").glob("*.keras")} == {
        "step-0000000.keras",
        "step-0000002.keras",
    }
    assert "training: 2/2 steps" in capsys.readouterr().out
    alone = train_separator(config_of(tmp_path / "data"), tmp_path / "alone", verbose=False)
    assert capsys.readouterr().out == ""
    index = next(alone.path.glob("clips-*/index.jsonl")).read_text().splitlines()
    names = [json.loads(line)["name"] for line in index]
    assert names == [f"{i:02d}.wav" for i in range(24)]  # no source among the recordings
    draw_curves([mixed.path, alone.path], ["loss", "validation/MoMi"], tmp_path / "curves.svg")
    assert "mixed" in (tmp_path / "curves.svg").read_text()
    with pytest.raises(InputError, match=r"accuracy: no run has it; they have .*validation/MoMi"):
        draw_curves([mixed.path], ["accuracy"], tmp_path / "other.png")


def test_weights_that_explode_stop_the_run_in_its_validation(tmp_path):
    """Loss and gradient of the step were numbers, what the new weights compute is not."""
    write_fuss(tmp_path / "data", 20)
    config = config_of(tmp_path / "data", learning_rate=1e30, state_steps=(1, 2))
    with pytest.raises(TrainingDiverged) as stopped:
        train_separator(config, tmp_path / "run", verbose=False)
    assert str(stopped.value) == (
        "step 1: channels of a validation clip hold NaN or infinity; last good checkpoint: none; "
        "try a lower train.learning_rate"
    )
    assert not list((tmp_path / "run").rglob("*.keras"))


def test_scenes_are_mixed_from_isolated_sounds(tmp_path):
    lines = ["filename,labels,fold"]
    for number in range(12):
        name, fold = f"{number}.wav", number % 3
        sound = 0.1 * np.random.default_rng(number).normal(size=8000)
        (tmp_path / "data").mkdir(exist_ok=True)
        soundfile.write(tmp_path / "data" / name, sound, 16000)
        lines.append(f"{name},class{number // 3},{fold}")
    (tmp_path / "data" / "labels.csv").write_text("\n".join(lines))
    config = config_of(f"mix:{tmp_path}/data")
    config.data.update(num_clips=10, num_validation=4)
    config.data.mix.update(folds="0,2", validation_folds="1")
    run = train_separator(config, tmp_path / "run")
    index = next(run.path.glob("clips-*/index.jsonl")).read_text().splitlines()
    names = [json.loads(line)["name"] for line in index]
    assert names == [f"mix/train/0/{i:06d}" for i in range(10)] + [
        f"mix/validation/0/{i:06d}" for i in range(4)
    ]
    # Stored without their sources, but scored with them.
    assert {"validation/MSi", "validation/MoMi"} <= set(records_of(run)[0])
    assert mixtures(config.data).folds == {"train": ("0", "2"), "validation": ("1",)}
    config.data.mix.validation_folds = ""
    assert mixtures(config.data).counts == {"train": 10}
    config.data.mix.folds = ""
    assert mixtures(config.data).counts == {"train": 10, "validation": 4}


def test_self_remixing_keeps_the_average_as_a_network_to_go_on_from(tmp_path):
    write_fuss(tmp_path / "data", 8)
    options = {"average_decay": 0.9, "kept_weights": "average", "state_steps": (1, 2)}
    config = config_of(tmp_path / "data", objective="self_remixing", **options)
    run = train_separator(config, tmp_path / "run")
    first, last = (load_separator(run.state(step)) for step in (1, 2))
    assert last.trainable_variables
    assert np.isfinite(last(np.ones((1, 4000), np.float32))).all()
    assert any(
        not np.array_equal(a, b)
        for a, b in zip(first.get_weights(), last.get_weights(), strict=True)
    )


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"batch_size": 6}, r"expected a multiple of 4 \(separator.num_sources \* replicas\)"),
        ({"single_mixture_fraction": 0.5}, "applies to mixtures of mixtures; expected 0"),
        ({"average_decay": 0.0}, "expected a decay above 0"),
        ({"objective": "remix"}, "expected one of mixit, remixit, self_remixing"),
    ],
)
def test_remixing_that_cannot_be(tmp_path, train, message):
    config = config_of(tmp_path, **({"objective": "remixit", "average_decay": 0.9} | train))
    with pytest.raises(InputError, match=message):
        train_separator(config, tmp_path / "run")


def test_more_sources_than_outputs_are_refused(tmp_path):
    write_fuss(tmp_path / "data", 8, num_sources=5)
    config = config_of(tmp_path / "data", supervised_fraction=1.0)
    with pytest.raises(InputError, match=r"00\.wav: has 5 sources; expected no more than .*=4"):
        train_separator(config, tmp_path / "run")
    with pytest.raises(InputError, match="holds no mixture with sources"):
        train_separator(
            config_of(tmp_path / "data" / "00_sources", supervised_fraction=1.0), tmp_path / "none"
        )
    assert not (tmp_path / "none").exists()


def test_a_mixture_whose_sources_only_decoding_rejects_is_skipped(tmp_path, capsys):
    write_fuss(tmp_path / "data", 10)
    soundfile.write(tmp_path / "data" / "03.wav", np.zeros(8000), 16000)
    for name in ("00", "09"):
        file = tmp_path / "data" / f"{name}_sources" / "1.wav"
        soundfile.write(file, np.full(8000, np.nan), 16000, subtype="FLOAT")
    config = config_of(tmp_path / "data", supervised_fraction=1.0, batch_size=4)
    run = train_separator(config, tmp_path / "run")
    assert run.final.exists()
    said = capsys.readouterr().out
    assert "skipped 3:" in said
    for reason in ("1.wav: holds NaN", "03.wav: is silent"):
        assert reason in said
