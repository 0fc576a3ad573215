import contextlib
import pathlib
import shutil

import numpy as np
import pytest
import tensorflow as tf

import sepssl
from sepssl.errors import InputError
from sepssl.separation import TDCN, LearnedBasis, Separator
from sepssl.separation.google_checkpoint import import_google_checkpoint, variable_names
from sepssl.serialization import save_model
from tests.keras_files import flip_bits

REFERENCE = pathlib.Path(__file__).parents[1] / "data" / "google_mixit_small"
PREFIX = REFERENCE / "model.ckpt"


def write_checkpoint(prefix, tensors):
    """A TF1 checkpoint, in the format that tf.compat.v1.train.Saver writes."""
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


def tensors_of(prefix):
    reader = tf.train.load_checkpoint(str(prefix))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


@pytest.mark.parametrize("prefix", [PREFIX, f"{PREFIX}.index"])
def test_equals_googles_graph(prefix, tmp_path):
    separator = import_google_checkpoint(prefix, dilations_per_repeat=3)
    assert (separator.num_sources, separator.tdcn.repeats, separator.basis.hop) == (4, 2, 20)
    save_model(separator, tmp_path / "google.keras")
    data = np.load(REFERENCE / "io.npz")
    loaded = sepssl.load_separator(tmp_path / "google.keras")
    np.testing.assert_allclose(loaded(data["mixture"]), data["separated"], atol=1e-5)


def test_sizes_are_read_off_the_variables_and_other_variables_ignored(tmp_path):
    """A bird model: 22.05 kHz, at which a frame is no multiple of the hop."""
    rng = np.random.default_rng(0)
    written = Separator(3, LearnedBasis(24, 55, 28), TDCN(10, 14, 8, 1), sample_rate=22050)
    written.build((None, None))
    tensors = {"global_step": np.int64(7), "beta1_power": np.float32(0.9)}
    for variable, names in variable_names(written):
        variable.assign(rng.normal(size=variable.shape).astype(np.float32))
        parts = np.asarray(variable) if len(names) > 1 else [np.asarray(variable)]
        for name, part in zip(names, parts, strict=True):
            tensors[name] = part
            tensors[f"{name}/Adam"] = np.zeros(part.shape, np.float32)
    write_checkpoint(tmp_path / "model.ckpt-7", tensors)
    read = import_google_checkpoint(tmp_path / "model.ckpt-7", 22050)
    assert (read.basis.frame_length, read.basis.hop, read.sample_rate) == (55, 28, 22050)
    waveform = rng.normal(size=(1, 500)).astype(np.float32)
    np.testing.assert_array_equal(read(waveform), written(waveform))


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    tensors = tensors_of(PREFIX)
    name = "improved_tdcn/conv_block_4/tdcn_block/normact2/prelu/prelu"
    write_checkpoint(tmp_path / "missing", {k: v for k, v in tensors.items() if k != name})
    with pytest.raises(InputError, match=f"missing: has no variable {name}"):
        import_google_checkpoint(tmp_path / "missing", dilations_per_repeat=3)
    name = "improved_tdcn/conv_block_1/tdcn_block/dense2/dense/kernel"
    write_checkpoint(tmp_path / "wrong", tensors | {name: np.zeros([24, 15], np.float32)})
    with pytest.raises(InputError, match=rf"{name} has the shape \[24, 15\]; expected \[24, 16\]"):
        import_google_checkpoint(tmp_path / "wrong", dilations_per_repeat=3)
    with pytest.raises(InputError, match="has 6 blocks, but dilations_per_repeat is 8"):
        import_google_checkpoint(PREFIX)
    with pytest.raises(InputError, match="frames of 40 samples, which at 22050 Hz"):
        import_google_checkpoint(PREFIX, 22050)
    with pytest.raises(InputError, match="hop=41"):
        import_google_checkpoint(PREFIX, hop=41, dilations_per_repeat=3)
    with pytest.raises(InputError, match="nothing: not a TensorFlow checkpoint"):
        import_google_checkpoint(tmp_path / "nothing")
    write_checkpoint(tmp_path / "cut", tensors)
    next(tmp_path.glob("cut.data-*")).unlink()
    with pytest.raises(InputError, match=r"cut: .*checkpoint"):
        import_google_checkpoint(tmp_path / "cut", dilations_per_repeat=3)
    name = "initial_dense/dense/kernel"
    write_checkpoint(tmp_path / "transposed", tensors | {name: np.zeros([16, 32], np.float32)})
    with pytest.raises(InputError, match="transposed: "):
        import_google_checkpoint(tmp_path / "transposed", dilations_per_repeat=3)
    (tmp_path / "text.index").write_text("no checkpoint")
    with pytest.raises(InputError, match="text: not a TensorFlow checkpoint"):
        import_google_checkpoint(tmp_path / "text")
    write_checkpoint(tmp_path / "other", {"dense/kernel": np.zeros([2, 2], np.float32)})
    with pytest.raises(InputError, match="other: has no variable conv_encoder/dense/kernel"):
        import_google_checkpoint(tmp_path / "other")


def test_damaged_and_boastful_checkpoints_are_refused(tmp_path):
    tensors = tensors_of(PREFIX)
    first = "improved_tdcn/conv_block_0/tdcn_block/dense1/dense/kernel"
    for change, says in (
        ({"mix_weights/dense/kernel": np.float32(3)}, r"has the shape \[\]; expected"),
        # Sizes that no variable but the first shows: 10 GB of weights, were they made.
        ({first: np.zeros([1, 10**6], np.float32), "initial_dense/dense/kernel":
          np.zeros([1, 10**4], np.float32)}, "more weights than the"),
    ):  # fmt: skip
        write_checkpoint(tmp_path / "bad", tensors | change)
        with pytest.raises(InputError, match=says):
            import_google_checkpoint(tmp_path / "bad", dilations_per_repeat=3)
    for suffix in (".index", ".data-00000-of-00001"):
        for file in REFERENCE.glob("model.ckpt.*"):
            shutil.copy(file, tmp_path / file.name.replace("model", "flipped"))
        damaged = tmp_path / f"flipped.ckpt{suffix}"
        content = damaged.read_bytes()
        for seed in range(15):
            damaged.write_bytes(flip_bits(content, np.random.default_rng(seed), 1 + seed % 3))
            with contextlib.suppress(InputError):
                import_google_checkpoint(tmp_path / "flipped.ckpt", dilations_per_repeat=3)
