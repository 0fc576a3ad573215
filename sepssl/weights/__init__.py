"""Where models are: in a file, in a folder, under a name, or in a repository on Hugging Face.

A name is one of `registry.json`, which lists trained models by kind ("Separator" or "Encoder"); a
separator and an encoder may share one. An entry has the `sha256` of its `.keras` file, its
`license`, and either `file`, its name in this folder, or `url`, where it is: `https://...` or an
address as below.

An address on Hugging Face is `hf://OWNER/REPOSITORY[@REVISION][/FILE.keras]`, where the file is
`model.keras` unless it is given, and the revision a branch, a tag or a commit.
"""

import functools
import hashlib
import http.client
import json
import os
import pathlib
import re
import urllib.request
from collections.abc import Mapping

from sepssl.errors import InputError
from sepssl.files import atomic_file, sha256_of

FOLDER = pathlib.Path(__file__).parent
MODEL_FILE = "model.keras"  # in a repository, or in a folder made for one
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([^/@]+))?(?:/([^@]+\.keras))?")


@functools.cache
def registry() -> Mapping[str, Mapping[str, Mapping[str, str]]]:
    """The entries of `registry.json`, by kind and name."""
    return json.loads((FOLDER / "registry.json").read_text(encoding="utf-8"))


def is_name(model: str | os.PathLike, kind: str) -> bool:
    """Whether a model is called by its name, and not by the path of a file."""
    return os.fspath(model) in registry()[kind] and not os.path.isfile(model)


def reference(model: str | os.PathLike, kind: str) -> str:
    """How a model is referred to from any folder: by name or address, or by its absolute path."""
    if is_name(model, kind) or _is_address(model):
        return os.fspath(model)
    return os.path.abspath(model)


def references(encoder: str, separator: str) -> dict[str, str]:
    """`reference` of each model by "encoder" and "separator", without those that are ""."""
    models = {"encoder": encoder, "separator": separator}
    return {kind: reference(model, kind.capitalize()) for kind, model in models.items() if model}


def license_of(model: str | os.PathLike, kind: str) -> str:
    """The license of the weights that a name stands for, as an SPDX identifier; "" of a file's."""
    if not is_name(model, kind):
        return ""
    return registry()[kind][os.fspath(model)].get("license", "")


def model_file(
    model: str | os.PathLike,
    kind: str,
    entries: Mapping[str, Mapping[str, str]] | None = None,
) -> pathlib.Path:
    """The `.keras` file of a model.

    Args:
        model: the path of a file, or of a folder with a `model.keras`; a name in the registry, for
            which a file comes first, but not a folder; or an address on Hugging Face. What an
            address leads to is kept in Hugging Face's cache, and looked for there alone if the
            environment has HF_HUB_OFFLINE=1.
        kind: "Separator" or "Encoder".
        entries: those of the kind, by name, instead of this package's.

    Raises:
        InputError: if there is no such file, name or address, the file does not end in `.keras`,
            the name is that of another kind, or what it names cannot be fetched, or has another
            checksum; for an address also if huggingface_hub is not installed.
    """
    if _is_address(model):
        return _downloaded(os.fspath(model))
    path = pathlib.Path(model)
    entries = registry()[kind] if entries is None else entries
    expected = f"expected a .keras file that holds a sepssl {kind}, hf://OWNER/REPOSITORY"
    if entries:
        expected += f", or {' or '.join(entries)}"
    if os.fspath(model) not in entries and (path / MODEL_FILE).is_file():
        return path / MODEL_FILE
    if path.is_file() or (path.exists() and os.fspath(model) not in entries):
        if path.is_dir() or path.suffix != ".keras":
            raise InputError(f"{path}: not a .keras file; {expected}")
        return path
    entry = entries.get(os.fspath(model))
    if entry is None:
        others = [other for other, named in registry().items() if os.fspath(model) in named]
        found = f"names a sepssl {others[0]}" if others else "no such file"
        raise InputError(f"{path}: {found}; {expected}")
    packaged = "file" in entry
    file = FOLDER / entry["file"] if packaged else _fetched(entry)
    try:
        content = file.read_bytes()
    except OSError as error:
        remedy = (
            "the package to be installed again" if packaged else "it deleted, to fetch it again"
        )
        raise InputError(f"{file}: cannot be read ({error.strerror}); expected {remedy}") from error
    _require_checksum(content, entry, str(file))
    return file


def content_name(file: str | os.PathLike) -> str:
    """The stem of a model's file and 8 hex digits of its content, "small-3f1a90c2".

    Raises:
        InputError: if it cannot be read.
    """
    return f"{pathlib.Path(file).stem}-{sha256_of(file)[:8]}"


def _parts(address: str) -> tuple[str, str, str]:
    """Repository, revision and file of an address on Hugging Face."""
    match = _ADDRESS.fullmatch(address)
    if not match:
        raise InputError(f"{address}: expected hf://OWNER/REPOSITORY[@REVISION][/FILE.keras]")
    repository, revision, file = match.groups()
    return repository, revision or "main", file or MODEL_FILE


def _is_address(model: str | os.PathLike) -> bool:
    return os.fspath(model).startswith("hf://")


def _downloaded(address: str) -> pathlib.Path:
    """The file at an address, in Hugging Face's cache."""
    repository, revision, file = _parts(address)
    try:
        import huggingface_hub
        from huggingface_hub import errors
    except ImportError as error:
        raise InputError(
            f"{address}: needs huggingface_hub; expected the extra 'hf': pip install 'sepssl[hf]'"
        ) from error
    try:
        return pathlib.Path(huggingface_hub.hf_hub_download(repository, file, revision=revision))
    except errors.LocalEntryNotFoundError as error:
        raise InputError(
            f"{address}: {file} is not in the cache of Hugging Face, and the network cannot be "
            "reached or is switched off (HF_HUB_OFFLINE)"
        ) from error
    except errors.EntryNotFoundError as error:
        raise InputError(
            f"{address}: has no {file}; expected a repository of a folder that "
            "sepssl-export --format=hub has written, or the path of its .keras file as well"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f"{address}: has no revision {revision}; expected a branch, a tag or a commit"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f"{address}: no such repository; expected a public one, or `hf auth login` with an "
            "account that may read it"
        ) from error
    except Exception as error:  # of several HTTP libraries, and of the file system
        reason = (str(error) or type(error).__name__).strip().splitlines()[0]
        raise InputError(f"{address}: cannot be fetched ({reason}); expected a model") from error


def _fetched(entry: Mapping[str, str]) -> pathlib.Path:
    """The file of an entry that has a URL; kept in the user's cache, or in Hugging Face's."""
    if _is_address(entry["url"]):
        return _downloaded(entry["url"])
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    file = cache / "sepssl" / f"{entry['sha256']}.keras"
    if not file.exists():
        url = entry["url"]
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
