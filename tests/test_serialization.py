import keras
import pytest

import sepssl
from sepssl.errors import InputError
from sepssl.representation import Encoder


def test_code_in_a_file_is_not_run(tmp_path):
    """A Lambda layer in a `.keras` file is marshalled bytecode: safe mode refuses it."""
    path, ran = tmp_path / "encoder.keras", tmp_path / "ran"
    code = eval(f"lambda x: (open({str(ran)!r}, 'w').close(), x[:, 0])[1]")
    encoder = Encoder(keras.layers.Lambda(code, output_shape=(64,)))
    encoder.built = True
    encoder.save(path)
    with pytest.raises(InputError, match=r"could not be loaded .*[Ll]ambda"):
        sepssl.load_encoder(path)
    # And the file would have run it.
    keras.saving.load_model(path, safe_mode=False).backbone(keras.ops.zeros([1, 96, 64]))
    assert ran.exists()
