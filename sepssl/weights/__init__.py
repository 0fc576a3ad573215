"""Models that are called by a name: trained ones that come with the package, or are fetched once.

`registry.json` lists them by kind ("Separator" or "Encoder") and name; a separator and an encoder
may share one. An entry has the `sha256` of its `.keras` file, and either `file`, its name in this
folder, or `url`, where it is: `https://...`, or `hf://OWNER/REPOSITORY/FILE` for a file on Hugging
Face.
"""

import functools
import hashlib
import http.client
import json
import os
import pathlib
import urllib.request
from collections.abc import Mapping

from sepssl.errors import InputError
from sepssl.files import atomic_file

FOLDER = pathlib.Path(__file__).parent


@functools.cache
def registry() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """The entries of `registry.json`, by kind and name."""
    return json.loads((FOLDER / "registry.json").read_text(encoding="utf-8"))


def is_name(model: str | os.PathLike, kind: str) -> bool:
    """Whether a model is called by its name, and not by the path of a file."""
    return os.fspath(model) in registry()[kind] and not os.path.isfile(model)


def reference(model: str | os.PathLike, kind: str) -> str:
    """How a model is referred to from any folder: by its name, or a file by its absolute path."""
    return os.fspath(model) if is_name(model, kind) else os.path.abspath(model)


def model_file(
    model: str | os.PathLike,
    kind: str,
    entries: Mapping[str, Mapping[str, str]] | None = None,
) -> pathlib.Path:
    """The `.keras` file of a model.

    Args:
        model: the path of a file, or a name in the registry. A file of the same name comes first.
        kind: "Separator" or "Encoder".
        entries: those of the kind, by name, instead of this package's.

    Raises:
        InputError: if there is no such file or name, the file does not end in `.keras`, the name is
            that of another kind, or what it names cannot be fetched, or has another checksum.
    """
    path = pathlib.Path(model)
    entries = registry()[kind] if entries is None else entries
    expected = f"expected a .keras file that holds a sepssl {kind}"
    if entries:
        expected += f", or {' or '.join(entries)}"
    if path.is_file() or (path.exists() and os.fspath(model) not in entries):
        if path.is_dir() or path.suffix != ".keras":
            raise InputError(f"{path}: not a .keras file; {expected}")
        return path
    entry = entries.get(os.fspath(model))
    if entry is None:
        others = [other for other, named in registry().items() if os.fspath(model) in named]
        found = f"names a sepssl {others[0]}" if others else "no such file"
        raise InputError(f"{path}: {found}; {expected}")
    file = FOLDER / entry["file"] if "file" in entry else _fetched(entry)
    _require_checksum(file.read_bytes(), entry, str(file))
    return file


def _fetched(entry: Mapping[str, str]) -> pathlib.Path:
    """The file of an entry that has a URL; kept in the user's cache."""
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    file = cache / "sepssl" / f"{entry['sha256']}.keras"
    if not file.exists():
        url = entry["url"]
        if url.startswith("hf://"):
            owner, repository, inside = url.removeprefix("hf://").split("/", 2)
            url = f"https://huggingface.co/{owner}/{repository}/resolve/main/{inside}"
        print(f"fetching {url}", flush=True)
        try:
            with urllib.request.urlopen(url, timeout=60) as response:
                content = response.read()
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise InputError(f"{url}: cannot be fetched ({error}); expected a model") from error
        _require_checksum(content, entry, url)
        with atomic_file(file, overwrite=True) as temporary:  # another process may have been faster
            temporary.write_bytes(content)
    return file


def _require_checksum(content: bytes, entry: Mapping[str, str], source: str) -> None:
    found = hashlib.sha256(content).hexdigest()
    if found != entry["sha256"]:
        raise InputError(f"{source}: has SHA-256 {found}; expected {entry['sha256']}")
