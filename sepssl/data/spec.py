"""Which strings may name clips. Nothing is opened, and nothing large is imported."""

import os

from sepssl.errors import InputError

SCENES = "scenes"
TFDS_PREFIX = "tfds:"
MIX_PREFIX = "mix:"
FORMS = (
    'a sound file, a folder, a manifest ending in .csv, "tfds:NAME[/CONFIG]", "mix:FOLDER", or '
    '"scenes"'
)
EXPECTED = f"expected {FORMS}"


def is_path(spec: str | os.PathLike) -> bool:
    """Whether a string names a file or folder, not scenes or a TFDS dataset."""
    text = os.fspath(spec)
    return text != SCENES and not text.startswith((TFDS_PREFIX, MIX_PREFIX))


def mixed_sounds(spec: str | os.PathLike) -> str:
    """The folder or manifest of isolated sounds in "mix:FOLDER"; "" for any other string."""
    text = os.fspath(spec)
    return text.removeprefix(MIX_PREFIX) if text.startswith(MIX_PREFIX) else ""


def comma_separated(text: str) -> tuple[str, ...]:
    """The names in a text that puts commas between them."""
    return tuple(name for part in text.split(",") if (name := part.strip()))


def require_clips(spec: str | os.PathLike) -> None:
    """Raises InputError if `spec` is empty, or a path that does not exist or cannot be read."""
    if not os.fspath(spec):
        raise InputError(f"no clips are named; {EXPECTED}")
    if os.fspath(spec).startswith(MIX_PREFIX):
        spec = mixed_sounds(spec)
        if not spec or not is_path(spec):
            raise InputError(
                f"{MIX_PREFIX}{spec}: expected {MIX_PREFIX} and a folder or a manifest of isolated "
                "sounds"
            )
    elif not is_path(spec):
        return
    try:
        os.stat(spec)
    except FileNotFoundError as error:
        raise InputError(f"{spec}: does not exist; {EXPECTED}") from error
    except OSError as error:
        raise InputError(f"{spec}: cannot be read: {error.strerror}; {EXPECTED}") from error
