"""Which strings may name clips. Nothing is opened, and nothing large is imported."""

import os

from sepssl.errors import InputError

SCENES = "scenes"
TFDS_PREFIX = "tfds:"
EXPECTED = (
    'expected a sound file, a folder, a manifest ending in .csv, "tfds:NAME[/CONFIG]", or "scenes"'
)


def is_path(spec: str | os.PathLike) -> bool:
    """Whether a string names a file or folder, not built-in scenes or a TFDS dataset."""
    text = os.fspath(spec)
    return text != SCENES and not text.startswith(TFDS_PREFIX)


def require_clips(spec: str | os.PathLike) -> None:
    """Raises InputError if `spec` is empty, or a path that does not exist or cannot be read."""
    if not os.fspath(spec):
        raise InputError(f"no clips are named; {EXPECTED}")
    if not is_path(spec):
        return
    try:
        os.stat(spec)
    except FileNotFoundError as error:
        raise InputError(f"{spec}: does not exist; {EXPECTED}") from error
    except OSError as error:
        raise InputError(f"{spec}: cannot be read: {error.strerror}; {EXPECTED}") from error
