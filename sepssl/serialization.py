"""Models to `.keras` files and back."""

import os
import pathlib

import keras

from sepssl.errors import InputError
from sepssl.files import atomic_file


def load_model(path: str | os.PathLike, kind: type[keras.Model]) -> keras.Model:
    """Loads a model of class `kind` from a `.keras` file, in safe mode.

    Raises:
        InputError: if there is no such file, or it holds something else.
    """
    # So that a file of the other kind is recognised, and refused as one.
    import sepssl.representation
    import sepssl.separation  # noqa: F401

    path = pathlib.Path(path)
    expected = f"expected a .keras file that holds a sepssl {kind.__name__}"
    if not path.exists():
        raise InputError(f"{path}: no such file; {expected}")
    if path.is_dir() or path.suffix != ".keras":
        raise InputError(f"{path}: not a .keras file; {expected}")
    try:
        # Under compile=True, a training configuration in the file would be restored as well.
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for a damaged or foreign file.
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(f"{path}: could not be loaded ({reason[:200]}); {expected}") from error
    if not isinstance(model, kind):
        raise InputError(f"{path}: holds a {type(model).__name__}; {expected}")
    return model


def save_model(model: keras.Model, path: str | os.PathLike, overwrite: bool = False) -> None:
    """Writes a model to a `.keras` file that appears whole or not at all.

    Raises:
        InputError: if `path` exists and `overwrite` is False, or cannot be written.
    """
    with atomic_file(path, overwrite) as temporary:
        model.save(temporary)
