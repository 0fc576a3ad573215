import json
import os
import pathlib
import stat
import warnings
import zipfile

import h5py
import keras
import numpy as np
import pytest
from keras import layers, ops

import sepssl
from sepssl.errors import InputError
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, Separator, STFTBasis
from sepssl.serialization import WEIGHTS, require_allowed_classes, save_model
from tests.keras_files import change_value, edited, flip_bits, rewrite


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    separator = Separator(2, STFTBasis(64, 32), TDCN(8, 12, 2, 1))
    separator.build((None, None))
    path = tmp_path_factory.mktemp("good") / "separator.keras"
    save_model(separator, path)
    return path


def refused(path, says):
    before = {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")}
    with pytest.raises(InputError) as raised:
        sepssl.load_separator(path)
    message = str(raised.value)
    assert says in message
    assert message.startswith(f"{path}: could not be loaded (")
    assert message.endswith("expected a .keras file that holds a sepssl Separator")
    assert message.isprintable()
    assert before == {p: p.stat().st_mtime_ns for p in path.parent.rglob("*")}


def test_code_in_a_file_is_not_run(tmp_path):
    """A Lambda layer in a `.keras` file is marshalled bytecode."""
    path, ran = tmp_path / "encoder.keras", tmp_path / "ran"
    code = eval(f"lambda x: (open({str(ran)!r}, 'w').close(), x[:, 0])[1]")
    encoder = Encoder(keras.layers.Lambda(code, output_shape=(64,)))
    encoder.built = True
    encoder.save(path)
    with pytest.raises(InputError, match=r"could not be loaded \(holds keras\.layers\.Lambda,"):
        sepssl.load_encoder(path)
    # And the file would have run it.
    keras.saving.load_model(path, safe_mode=False).backbone(keras.ops.zeros([1, 96, 64]))
    assert ran.exists()


def node(module, name, config=None, registered=None):
    return {
        "module": module,
        "class_name": name,
        "config": {} if config is None else config,
        "registered_name": registered,
    }


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (node("keras.layers", "Lambda"), "keras.layers.Lambda"),
        (node("keras.layers", "TFSMLayer", {"filepath": "/tmp"}), "keras.layers.TFSMLayer"),
        (node("keras.src.export.tfsm_layer", "TFSMLayer", {}, "TFSMLayer"), "TFSMLayer"),
        (node("keras.layers", "StringLookup", {"vocabulary": "/etc/passwd"}), "StringLookup"),
        (node("keras.layers", "TorchModuleWrapper", {}), "TorchModuleWrapper"),
        (node("keras.utils", "get_file", {"fname": "x", "origin": "http://x"}), "get_file"),
        (node("keras.saving", "load_model", {"filepath": "x"}), "keras.saving.load_model"),
        (node("keras.config", "function", "enable_unsafe_deserialization"), "keras.config"),
        (node("keras.layers", "function", "deserialize"), "keras.layers.function"),
        (node("keras.activations", "function", "deserialize"), "keras.activations.function"),
        (node("os", "system"), "os.system"),
        (node("builtins", "function", "eval"), "builtins.function"),
        # Keras looks at some values of class_name first.
        (node("keras", "__lambda__", {"value": "x"}, "sepssl>TDCN"), "keras.__lambda__"),
        (node("keras.layers", "Lambda", {}, "sepssl>TDCN"), "keras.layers.Lambda"),
        # Without a module, an older reader would take what is called so.
        ({"class_name": "Lambda", "config": {}}, "None.Lambda"),
        ({"class_name": "TDCN", "config": {}, "registered_name": "sepssl>TDCN"}, "None.TDCN"),
        (node("keras.layers", ["Dense"]), "keras.layers.['Dense']"),
    ],
)
@pytest.mark.parametrize("place", ["tdcn", "name"])
def test_foreign_classes_are_refused(good, tmp_path, part, says, place):
    def change(config):
        config["config"][place] = part

    refused(rewrite(good, tmp_path / "bad.keras", change), says)


def test_networks_of_plain_keras_layers_are_allowed_and_others_once_registered():
    x = keras.Input((96, 64))
    y = layers.Conv2D(4, 3, kernel_regularizer="l2", activation="swish")(ops.expand_dims(x, -1))
    y = layers.DepthwiseConv2D(3, depthwise_constraint="max_norm")(layers.BatchNormalization()(y))
    y = ops.max(y, axis=(1, 2)) + ops.mean(y, axis=(1, 2))
    y = layers.Dense(8, kernel_initializer="he_normal")(layers.Dropout(0.1)(y))
    config = keras.saving.serialize_keras_object(keras.Model(x, y))
    require_allowed_classes(json.loads(json.dumps(config)))
    for name in ("EfficientNetB0", "MobileNetV2"):
        network = getattr(keras.applications, name)(weights=None, include_top=False)
        require_allowed_classes(keras.saving.serialize_keras_object(network))

    class Doubled(layers.Layer):
        def call(self, x):
            return 2 * x

    config = {"backbone": keras.saving.serialize_keras_object(keras.Sequential([Doubled()]))}
    with pytest.raises(ValueError, match="Doubled, which is neither registered nor in"):
        require_allowed_classes(config)
    Doubled.__module__ = "__main__"  # as in a script or notebook, for which Keras writes None
    written = keras.saving.serialize_keras_object(Doubled())
    assert written["module"] is None
    with pytest.raises(ValueError, match=r"None\.Doubled, which is neither registered nor in"):
        require_allowed_classes(written)
    with keras.saving.custom_object_scope({"Doubled": Doubled}):
        require_allowed_classes(written)
    # What a class without a package is called.
    with keras.saving.custom_object_scope({"Doubled": Doubled}):
        require_allowed_classes(config)


def test_archives_that_keras_would_not_write_are_refused(good, tmp_path):
    expected = "its members are not config.json, metadata.json, model.weights.h5"
    content = good.read_bytes()
    path = tmp_path / "bad.keras"
    for name in ("../escaped", "/tmp/escaped", "assets/x", "config.json"):
        path.write_bytes(content)
        with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings(action="ignore"):
            archive.writestr(name, "{}")
        refused(path, expected)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
    refused(path, expected)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(path, "w") as archive:
        for name in ("config.json", "metadata.json"):
            archive.writestr(name, old.read(name))
        link = zipfile.ZipInfo(WEIGHTS)
        link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(path, "model.weights.h5 is not a regular file")


def test_zip_bombs_are_refused_unread(good, tmp_path):
    zeros = rewrite(
        good,
        tmp_path / "bomb.keras",
        weights=lambda content: content + bytes(2**26),
        compression=zipfile.ZIP_DEFLATED,
    )
    assert zeros.stat().st_size < 2**20
    refused(zeros, "model.weights.h5 claims 671")
    refused(
        rewrite(
            good,
            tmp_path / "json.keras",
            config=lambda config: config["config"].update(name="x" * 2**25),
            compression=zipfile.ZIP_DEFLATED,
        ),
        "config.json claims 335",
    )
    # But a file that somebody has compressed is fine.
    packed = rewrite(good, tmp_path / "packed.keras", compression=zipfile.ZIP_DEFLATED)
    waveform = np.ones([1, 500], np.float32)
    loaded = sepssl.load_separator(packed)
    np.testing.assert_array_equal(loaded(waveform), sepssl.load_separator(good)(waveform))


def _external_link(file):
    del file["layers/tdcn/vars/0"]
    file["layers/tdcn/vars/0"] = h5py.ExternalLink("/etc/passwd", "/x")


def _soft_link(file):
    file["layers/more"] = h5py.SoftLink("/layers/tdcn")


def _replace(file, **options):
    name = "layers/tdcn/vars/0"
    shape = file[name].shape
    del file[name]
    file.create_dataset(name, shape, "float32", **options)


def _external_storage(file):
    _replace(file, external=[("/dev/zero", 0, h5py.h5f.UNLIMITED)])


def _virtual(file):
    name = "layers/tdcn/vars/0"
    layout = h5py.VirtualLayout(file[name].shape, "float32")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", file[name].shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


def _claims(file):
    file.create_dataset("layers/claims", (2**40,), "float32")  # a terabyte, none of it written


def _circle(file):
    file["layers/tdcn/circle"] = file["layers"]


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (_external_link, "0 in /layers/tdcn/vars is a link"),
        (_soft_link, "more in /layers is a link"),
        (_external_storage, "/layers/tdcn/vars/0 is not a plain array in the file"),
        (_virtual, "/layers/tdcn/vars/0 is not a plain array in the file"),
        (lambda file: _replace(file, chunks=(1, 1, 1)), "is not a plain array in the file"),
        (_replace, "is not a plain array in the file"),  # never written
        (_claims, "/layers/claims is not a plain array in the file"),
        (_circle, "circle in /layers/tdcn is a link"),
        (lambda file: file["layers/tdcn/vars/0"].write_direct(np.full([2, 8, 12], np.nan, "f4")),
         "up_kernel holds NaN or infinite values"),
    ],
)  # fmt: skip
def test_weights_that_are_elsewhere_or_nowhere_are_refused(good, tmp_path, edit, says):
    refused(rewrite(good, tmp_path / "bad.keras", weights=edited(edit)), says)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c["tdcn"]["config"].update(conv_channels=13), "could not be loaded"),
        (lambda c: c["tdcn"]["config"].update(conv_channels=10**9), "has more weights than the"),
        (lambda c: c["tdcn"]["config"].update(conv_channels=10**5), "has more weights than the"),
        (lambda c: c.update(num_sources=10**7), "its network has 769 weights, model.w"),
        (lambda c: c["tdcn"]["config"].update(repeats=10**9), "could not be loaded"),
        (lambda c: c["basis"]["config"].update(frame_length=2**40, hop=2**39), "could not be"),
    ],
)
def test_networks_that_claim_more_than_their_weights_are_refused(good, tmp_path, change, says):
    refused(rewrite(good, tmp_path / "bad.keras", lambda c: change(c["config"])), says)


def test_a_file_of_the_other_kind_and_a_subclass(good, tmp_path):
    with pytest.raises(InputError, match=r"holds a Separator; expected .* a sepssl Encoder"):
        sepssl.load_encoder(good)

    @keras.saving.register_keras_serializable(package="test_serialization")
    class MyEncoder(Encoder):
        pass

    encoder = MyEncoder(SmallBackbone(8, width=4))
    encoder.build((None, None))
    encoder.compile("adam", "mse")  # the optimizer is in the file, and not restored
    encoder.fit(np.zeros([4, 16000]), np.zeros([4, 8]), verbose=0)
    encoder.save(tmp_path / "encoder.keras")
    assert isinstance(sepssl.load_encoder(tmp_path / "encoder.keras"), MyEncoder)
    with pytest.raises(InputError, match="holds a MyEncoder; expected"):
        sepssl.load_separator(tmp_path / "encoder.keras")


def test_an_encoder_around_a_network_that_was_trained_before(tmp_path):
    x = keras.Input((96, 64))
    network = keras.Model(x, layers.Dense(8)(layers.Dropout(0.5)(layers.Flatten()(x))))
    network.compile("adam", "mse", metrics=["mae"])
    network.fit(np.zeros([4, 96, 64]), np.zeros([4, 8]), verbose=0)
    encoder = Encoder(network)
    waveform = np.ones([1, 16000], np.float32)
    expected = np.asarray(encoder(waveform))
    save_model(encoder, tmp_path / "encoder.keras")
    found = sepssl.load_encoder(tmp_path / "encoder.keras")(waveform)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("kind", ["zip", "cut", "weights", "config"])
def test_mutated_files_load_or_are_refused(good, tmp_path, kind):
    """`FILES=1000` in the environment tries as many of each kind."""
    content, path = good.read_bytes(), tmp_path / "bad.keras"
    for seed in range(int(os.environ.get("FILES", 15))):
        rng = np.random.default_rng([seed, 0])
        if kind == "zip":
            path.write_bytes(flip_bits(content, rng, int(rng.integers(1, 20))))
        elif kind == "cut":
            path.write_bytes(content[: int(rng.integers(len(content)))])
        elif kind == "weights":
            count = int(rng.integers(1, 100))
            rewrite(good, path, weights=lambda c, n=count, rng=rng: flip_bits(c, rng, n))
        else:
            rewrite(good, path, lambda c, rng=rng: change_value(c, rng))
        try:
            loaded = sepssl.load_separator(path)
        except InputError as error:
            loaded, message = None, str(error)
        assert isinstance(loaded, Separator) or (message.isprintable() and str(path) in message)
    assert {p.name for p in pathlib.Path(tmp_path).iterdir()} <= {"bad.keras"}


def test_a_name_that_would_be_another_format(tmp_path):
    model = Separator(2, STFTBasis(64, 32), TDCN(4, 8, 1, 1))
    with pytest.raises(InputError, match=r"model\.h5: expected a file name that ends in \.keras"):
        save_model(model, tmp_path / "model.h5")


def test_a_model_that_was_not_built_is_saved_with_weights(tmp_path):
    for model, load in (
        (Encoder(SmallBackbone(8, width=2)), sepssl.load_encoder),
        (Separator(2, STFTBasis(64, 32), TDCN(4, 6, 2, 1)), sepssl.load_separator),
    ):
        path = tmp_path / f"{type(model).__name__}.keras"
        sepssl.save_model(model, path)
        for saved, loaded in zip(model.weights, load(path).weights, strict=True):
            np.testing.assert_array_equal(loaded, saved)
    assert len(model.weights) > 10
    empty = tmp_path / "empty.keras"
    Encoder(SmallBackbone(8, width=2)).save(empty)  # Keras warns, and writes no weights
    with pytest.raises(InputError, match=r"empty\.keras: .*saved before it was built"):
        sepssl.load_encoder(empty)
