import numpy as np
import pytest
import tensorflow as tf

from sepssl.errors import InputError
from sepssl.export import convert_separator, save_separator
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import LearnedBasis, STFTBasis
from tests.export.separators import LOOK, make_separator

# With what loaders could stumble on: a loop with gradients of its own, an inverse FFT.
SEPARATORS = {
    "learned": lambda: make_separator(LearnedBasis(32), rematerialize=True, long_skips=True),
    # As few blocks as make a loop: the time goes to its gradients' graphs, twice.
    "STFT": lambda: make_separator(STFTBasis(512, 256), dilations_per_repeat=2, repeats=1),
}
FEWER = [pytest.param("learned", marks=pytest.mark.slow), "STFT"]


@pytest.mark.parametrize("name", FEWER)
def test_saved_model(name, waveforms, saved_waveforms, run_python, tmp_path):
    separator = SEPARATORS[name]()
    card = save_separator(separator, tmp_path / "separator")
    assert card["outputs"] == {
        "sources": {"dtype": "float32", "shape": ["batch", 3, "samples"]},
    }
    told, stderr = run_python(LOOK, tmp_path / "separator", saved_waveforms, tmp_path / "found.npz")
    found = np.load(tmp_path / "found.npz")
    assert not told["sepssl"]
    assert "custom gradient" not in stderr
    assert len(told["gradients"]) == len(separator.trainable_variables)
    assert all(told["gradients"])
    assert all(told["moved"])
    repaired = waveforms["batch"].copy()
    repaired[:, 7::1000] = 0.0
    for key, waveform in (waveforms | {"broken": repaired}).items():
        expected = np.asarray(separator(waveform))
        limit = 1e-5 * np.max(np.abs(expected))
        np.testing.assert_allclose(found[f"sources_{key}"], expected, rtol=0, atol=limit)
        np.testing.assert_allclose(found[f"sources_{key}"].sum(axis=1), waveform, atol=1e-5)
        if key != "broken":
            np.testing.assert_array_equal(found[f"called_sources_{key}"], found[f"sources_{key}"])


@pytest.mark.parametrize("name", FEWER)
def test_tflite(name, waveforms, tmp_path):
    separator = SEPARATORS[name]()
    card = convert_separator(separator, tmp_path / "separator", precisions=["float32", "float16"])
    assert list(card["checks"]) == ["separator.tflite", "separator_float16.tflite"]
    float32, float16 = (check["bytes"] for check in card["checks"].values())
    network = separator.tdcn.count_params() + separator.mask.count_params()
    assert (float32 - float16) / (4 * network) > 0.45  # half of the weights, and some graph
    for file, limit in {"separator": 1e-4, "separator_float16": 1e-2}.items():
        path = tmp_path / "separator" / f"{file}.tflite"
        run = tf.lite.Interpreter(str(path)).get_signature_runner("serving_default")
        for waveform in waveforms.values():
            expected = np.asarray(separator(waveform))
            found = run(waveform=waveform)["sources"]
            assert found.shape == expected.shape
            bound = limit * np.max(np.abs(expected))
            np.testing.assert_allclose(found, expected, rtol=0, atol=bound)


def test_tflite_of_one_length(tmp_path):
    separator = make_separator(STFTBasis(512, 256), dilations_per_repeat=2, repeats=1)
    card = convert_separator(separator, tmp_path / "separator", seconds=0.5)
    samples = 32 * 256  # half a second is 31.25 hops
    assert card["hop_samples"] == 256
    (check,) = card["checks"].values()
    assert check["shape"] == [1, samples]
    file = tmp_path / "separator" / "separator.tflite"
    run = tf.lite.Interpreter(str(file)).get_signature_runner("serving_default")
    (detail,) = run.get_input_details().values()
    assert detail["shape_signature"].tolist() == [1, samples]
    (detail,) = run.get_output_details().values()
    assert detail["shape_signature"].tolist() == [1, 3, samples]
    waveform = np.random.default_rng(4).uniform(-0.5, 0.5, [1, samples]).astype(np.float32)
    expected = np.asarray(separator(waveform))
    limit = 1e-4 * np.abs(expected).max()
    np.testing.assert_allclose(run(waveform=waveform)["sources"], expected, rtol=0, atol=limit)
    for seconds in (0.0, -1.0, np.inf, np.nan):
        with pytest.raises(InputError, match=f"seconds={seconds}: expected more than 0"):
            convert_separator(separator, tmp_path / "other", seconds=seconds)


def test_encoder_is_no_separator(tmp_path):
    encoder = Encoder(SmallBackbone(embedding_size=8, width=2))
    for write in (save_separator, convert_separator):
        with pytest.raises(InputError, match="is an Encoder; expected a sepssl Separator"):
            write(encoder, tmp_path / "separator")
