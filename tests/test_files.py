import os
import pathlib
import subprocess
import sys

import pytest

from sepssl.errors import InputError
from sepssl.files import atomic_file, atomic_folder


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_file(path) as temporary:
        temporary.write_text("half")
        assert not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole"
    with pytest.raises(ZeroDivisionError), atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(f"half {1 / 0}")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


def test_nothing_is_overwritten_unasked(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("precious")
    with pytest.raises(InputError, match=r"file\.txt: exists already"), atomic_file(path):
        pass
    with pytest.raises(InputError, match="is a folder"), atomic_file(tmp_path):
        pass
    with pytest.raises(InputError, match="is not empty"), atomic_folder(tmp_path):
        pass
    with pytest.raises(InputError, match="is a file"), atomic_folder(path):
        pass
    assert path.read_text() == "precious"


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    with atomic_folder(tmp_path / "folder") as temporary:
        (temporary / "a").write_text("a")
        assert not (tmp_path / "folder").exists()
    assert (tmp_path / "folder" / "a").read_text() == "a"
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "other") as temporary:
        (temporary / "a").write_text(f"{1 / 0}")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def test_a_link_to_an_empty_folder(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    with atomic_folder(tmp_path / "link") as temporary:
        (temporary / "a").write_text("a")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "empty" / "a").read_text() == "a"


def test_an_empty_folder_that_cannot_be_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in (".", tmp_path):
        with pytest.raises(InputError, match="is the current folder"), atomic_folder(path):
            pass


def test_an_empty_mount_point():
    mount = pathlib.Path("/dev/shm")
    if not mount.is_mount() or any(mount.iterdir()):
        pytest.skip("there is no empty mount point")
    with pytest.raises(InputError, match="shm: is a mount point"), atomic_folder(mount):
        pass


def test_no_permission(tmp_path):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed").chmod(0o555)
    was = os.geteuid()
    if was == 0:  # root may write anywhere: be nobody for a moment
        tmp_path.chmod(0o755)
        for parent in tmp_path.parents[:4]:
            parent.chmod(0o755)
        os.seteuid(65534)
    try:
        with (
            pytest.raises(InputError, match=r"closed/file\.txt: could not be written: Perm"),
            atomic_file(tmp_path / "closed" / "file.txt") as temporary,
        ):
            temporary.write_text("a")
    finally:
        os.seteuid(was)


FULL_DISK = """
import resource, sys, numpy as np
from sepssl.errors import InputError
what, folder = sys.argv[1:]
from sepssl.audio.files import write_audio
from sepssl.data.store import ClipStore
from sepssl.export import save_encoder
from sepssl.representation import Encoder, SmallBackbone
from sepssl.serialization import save_model
encoder = Encoder(SmallBackbone(64, width=16))
encoder.build((None, None))
noise = np.random.default_rng(0).normal(size=(1, 200_000)).astype(np.float32)
# No file may grow beyond 100 kB: writing then fails as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    if what == "sound":
        write_audio(f"{folder}/a.wav", 0.1 * noise[0], 16000)
    elif what == "model":
        save_model(encoder, f"{folder}/a.keras")
    elif what == "export":
        save_encoder(encoder, f"{folder}/a")
    else:
        ClipStore(f"{folder}/store").fill("here", ["a"], lambda first: [noise], "filling")
except InputError as error:
    print("InputError:", error)
"""


@pytest.mark.parametrize("what", ["sound", "model", "export", "store"])
def test_a_full_disk(what, tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", FULL_DISK, what, tmp_path],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    line = process.stdout.splitlines()[-1] if process.stdout else process.stderr[-2000:]
    assert line.startswith(f"InputError: {tmp_path}"), line
    assert "could not be written" in line
    if what != "store":  # which is made to be continued
        assert list(pathlib.Path(tmp_path).iterdir()) == []
