"""Models in repositories on Hugging Face, in its cache or behind a server of the test's own.

The server speaks the part of the hub's protocol that huggingface_hub's download needs.
"""

import contextlib
import http.server
import json
import os
import pathlib
import shutil
import subprocess
import sys
import threading

import numpy as np
import pytest

import sepssl
from sepssl import weights
from sepssl.errors import InputError

constants = pytest.importorskip("huggingface_hub.constants")

SMALL = weights.FOLDER / "encoder-small.keras"
COMMITS = {"main": "0" * 39 + "1", "v1": "0" * 39 + "2"}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache without a way to the network; holds `somebody/birds` at two revisions."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--somebody--birds"
    (repository / "refs").mkdir(parents=True)
    for revision, commit in COMMITS.items():
        (repository / "refs" / revision).write_text(commit)
        (repository / "snapshots" / commit / "old").mkdir(parents=True)
        (repository / "snapshots" / commit / "README.md").write_text(revision)
    shutil.copy(SMALL, repository / "snapshots" / COMMITS["main"] / "model.keras")
    shutil.copy(weights.FOLDER / "small.keras", repository / "snapshots" / COMMITS["v1"] / "old")
    return tmp_path


def test_models_are_loaded_from_the_cache(cache):
    noise = np.random.default_rng(0).normal(0, 0.1, (1, 20000)).astype(np.float32)
    loaded, shipped = sepssl.load_encoder("hf://somebody/birds"), sepssl.load_encoder("small")
    np.testing.assert_array_equal(loaded(noise), shipped(noise))
    by_commit = weights.model_file(f"hf://somebody/birds@{COMMITS['main']}", "Encoder")
    assert by_commit.samefile(weights.model_file("hf://somebody/birds@main", "Encoder"))
    separator = sepssl.load_separator("hf://somebody/birds@v1/old/small.keras")
    assert separator.num_sources == 4
    # What is in the file is checked as in any other.
    with pytest.raises(
        InputError, match=r"model\.keras: holds an Encoder; expected a \.keras file"
    ):
        sepssl.load_separator("hf://somebody/birds")
    (cache / "models--somebody--birds" / "snapshots" / COMMITS["v1"] / "model.keras").write_text(
        "no"
    )
    with pytest.raises(InputError, match=r"model\.keras: could not be loaded \(File is not a zip"):
        sepssl.load_encoder("hf://somebody/birds@v1")


def test_an_address_in_the_registry_has_a_checksum(cache):
    digest = weights.registry()["Encoder"]["small"]["sha256"]
    entries = {
        "birds": {"url": "hf://somebody/birds", "sha256": digest},
        "others": {"url": "hf://somebody/birds", "sha256": "0" * 64},
    }
    assert weights.model_file("birds", "Encoder", entries).read_bytes() == SMALL.read_bytes()
    with pytest.raises(InputError, match=rf"model\.keras: has SHA-256 {digest}; expected 0{{64}}$"):
        weights.model_file("others", "Encoder", entries)


def test_what_is_not_in_the_cache_is_named(cache):
    for address, file in (
        ("hf://somebody/birds@v1", r"model\.keras"),
        ("hf://somebody/birds/other.keras", r"other\.keras"),
        ("hf://nobody/nothing", r"model\.keras"),
    ):
        with pytest.raises(InputError, match=rf"^{address}: {file} is not in the cache .*OFFLINE"):
            weights.model_file(address, "Encoder")


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://birds",
        "hf://a/b@",
        "hf://a/b@v1@v2",
        "hf://a/b/model.h5",
        "hf://a/b/",
        "hf:///b",
    ],
)
def test_bad_addresses_are_refused(address):
    with pytest.raises(InputError) as error:
        weights.model_file(address, "Encoder")
    assert str(error.value) == f"{address}: expected hf://OWNER/REPOSITORY[@REVISION][/FILE.keras]"


def test_an_address_is_referred_to_as_it_is(cache):
    assert weights.reference("hf://somebody/birds", "Encoder") == "hf://somebody/birds"
    assert weights.license_of("hf://somebody/birds", "Encoder") == ""


def test_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # as if not installed
    with pytest.raises(InputError, match=r"^hf://a/b: needs hugg.*pip install 'sepssl\[hf\]'$"):
        weights.model_file("hf://a/b", "Encoder")


def test_a_folder_with_a_model_is_one(tmp_path, monkeypatch):
    shutil.copy(SMALL, tmp_path / "model.keras")
    assert weights.model_file(tmp_path, "Encoder") == tmp_path / "model.keras"
    assert weights.reference(tmp_path, "Encoder") == str(tmp_path)
    # Not where its name is that of a model; a path is none.
    monkeypatch.chdir(tmp_path)
    os.mkdir("small")
    shutil.copy(SMALL, "small/model.keras")
    assert weights.model_file("small", "Encoder") == SMALL
    assert weights.model_file("./small", "Encoder").name == "model.keras"


class Hub(http.server.BaseHTTPRequestHandler):
    """`owner/full` has a model, `owner/empty` has not, others do not exist."""

    def do_GET(self):
        name, _, revision, file = self.path.split("?")[0].split("/", 5)[2:]
        self.send_response(
            200 if (name, revision, file) == ("full", "main", "model.keras") else 404
        )
        self.send_header("X-Repo-Commit", COMMITS["main"])
        if name not in ("full", "empty"):
            self.send_header("X-Error-Code", "RepoNotFound")
        elif revision != "main":
            self.send_header("X-Error-Code", "RevisionNotFound")
        elif (name, file) != ("full", "model.keras"):
            self.send_header("X-Error-Code", "EntryNotFound")
        else:
            self.send_header("ETag", '"content"')
            self.send_header("Content-Length", str(SMALL.stat().st_size))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(SMALL.read_bytes())
            return
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serving():
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


LOOK = """
import json, sys
from sepssl import weights

found = []
for address in sys.argv[1:]:
    try:
        found.append(str(weights.model_file(address, "Encoder")))
    except weights.InputError as error:
        found.append(str(error))
assert "tensorflow" not in sys.modules
print(json.dumps(found))
"""


def test_a_hub_that_answers_and_one_that_is_not_asked(tmp_path):
    addresses = ["full", "full@v9", "empty", "none"]
    addresses = [f"hf://owner/{address}" for address in addresses]
    plain = {key: value for key, value in os.environ.items() if "proxy" not in key.lower()}

    def look(**environment):
        process = subprocess.run(
            [sys.executable, "-c", LOOK, *addresses],
            capture_output=True,
            text=True,
            env=plain | {"HF_HOME": str(tmp_path)} | environment,
        )
        assert process.returncode == 0, process.stderr
        return json.loads(process.stdout.splitlines()[-1])

    with serving() as endpoint:
        full, revision, empty, none = look(HF_ENDPOINT=endpoint)
    assert pathlib.Path(full).read_bytes() == SMALL.read_bytes()
    assert f"snapshots/{COMMITS['main']}/model.keras" in full
    assert revision == f"{addresses[1]}: has no revision v9; expected a branch, a tag or a commit"
    assert empty.startswith(f"{addresses[2]}: has no model.keras; expected a repository of")
    assert none.startswith(f"{addresses[3]}: no such repository; expected a public one, or")
    again, _, empty, _ = look(HF_HUB_OFFLINE="1")
    assert again == full
    assert "model.keras is not in the cache of Hugging Face, and the network cannot" in empty
