import base64
import http.server
import io
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import urllib.parse

import numpy as np
import pytest
import soundfile
from absl import flags

from sepssl.cli import map as command
from sepssl.cli.main import execute, parse
from sepssl.errors import InputError
from sepssl.evaluation import projection
from sepssl.index.store import Rows, WindowStore
from sepssl.index.tables import write_table
from sepssl.pipelines import map as pipeline

RATE, DIM, WINDOWS = 8000, 6, 10
NAMES = ["owl </script>/20240131_235957.wav", "fox/5E90A4D4.WAV", "x.wav"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A file of rows: three recordings of 6 s, ten windows with a row for a channel each."""
    folder = tmp_path_factory.mktemp("map") / "a b"
    names = [name.replace("</script>", "<b>") for name in NAMES]
    (folder / "rows.npz.journal").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with WindowStore(folder / "rows.npz.journal", {"encoder": "0123"}) as store:
        paths = [folder / "in" / name for name in names]
        added = store.add_recordings(str(folder / "in"), names, list(map(str, paths)), [0.0] * 3)
        for number, (recording, path) in enumerate(zip(added, paths, strict=True)):
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.1 * np.sin(np.arange(6 * RATE)), RATE, format="WAV")
            starts = np.repeat(0.5 * np.arange(WINDOWS), 2)
            vectors = rng.normal(size=(2 * WINDOWS, DIM)) + 20 * np.eye(DIM)[number]
            channels = np.tile([0, 1], WINDOWS)
            store.append(recording.id, Rows(starts, starts + 1, channels, -1.0 * channels, vectors))
            store.finish(recording.id, "", 6.0)
        write_table(folder / "rows.npz", store, DIM)
    (folder / "labels.csv").write_text("file,start,end,label\nx.wav,1,2,fox\nx.wav,1,2,owl\n")
    return folder


def run(folder, *arguments):
    values = flags.FlagValues()
    argv = ["sepssl-map", f"--index={folder}/rows.npz", f"--labels={folder}/labels.csv"]
    parse(command, values, [*argv, *map(str, arguments)])
    return execute(command, values)


def data_of(page: pathlib.Path) -> dict:
    (text,) = re.findall(
        r'<script id=data type="application/json">(.*?)</script>', page.read_text()
    )
    return json.loads(text)


def test_what_the_page_knows(made, tmp_path):
    page = made / "map.html"
    assert run(made, f"--output={page}", "--method=pca") == 0
    data = data_of(page)
    assert data["names"] == ["owl <b>/20240131_235957.wav", "fox/5E90A4D4.WAV", "x.wav"]
    assert data["recording"] == [i for i in range(3) for _ in range(2 * WINDOWS)]
    assert data["channel"] == [0, 1] * (3 * WINDOWS)
    starts = np.repeat(0.5 * np.arange(WINDOWS), 2).tolist() * 3
    assert data["start"] == starts
    assert data["end"] == [start + 1 for start in starts]
    assert [data["folder"][i] for i in (0, 20, 40)] == ["owl <b>", "fox", "."]
    # 23:59:57 and up to 4.5 s; 0x5E90A4D4 is 2020-04-10 16:54:44; x.wav tells nothing.
    assert data["hour"][:20] == [23] * 12 + [0] * 8
    assert data["hour"][20:] == [16] * 20 + [None] * 20
    labelled = {2 * i + channel for i in (1, 2, 3) for channel in (0, 1)}
    for i in range(20):
        assert data["label"][40 + i] == ("fox, owl" if i in labelled else "")
    files = [page.parent / urllib.parse.unquote(link) for link in data["links"]]
    assert files == [made / "in" / name for name in data["names"]]
    assert all(file.exists() for file in files)
    places = np.stack([data["x"], data["y"]], axis=1)
    assert places.min() == 0
    assert places.max() == 10_000
    middle = places.reshape(3, 20, 2).mean(axis=1)
    for i, part in enumerate(places.reshape(3, 20, 2)):  # each recording is on its own
        distances = np.linalg.norm(part[:, None] - middle, axis=2)
        assert (distances.argmin(axis=1) == i).all()


def test_the_same_under_a_seed_and_fewer_than_there_are(made, tmp_path, capsys):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        output = f"--output={tmp_path}/{name}.html"
        assert run(made, output, "--limit=40", "--rows=both", f"--seed={seed}") == 0
    assert "40 points, drawn at random from 60 rows" in capsys.readouterr().out
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()
    assert "40 of 60 rows, drawn at random" in (tmp_path / "a.html").read_text()
    assert data_of(tmp_path / "a.html")["start"] != data_of(tmp_path / "c.html")["start"]
    run(made, f"--output={tmp_path}/mixture.html", "--method=pca", "--rows=mixture")
    assert data_of(tmp_path / "mixture.html")["channel"] == [0] * 30


def test_a_page_may_hold_its_sounds(made, tmp_path, capsys, monkeypatch):
    assert run(made, f"--output={tmp_path}/map.html", "--method=pca", "--self_contained") == 0
    data = data_of(tmp_path / "map.html")
    for name, link in zip(data["names"], data["links"], strict=True):
        head, content = link.split(",")
        assert head == "data:audio/flac;base64"
        found, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        expected, _ = soundfile.read(made / "in" / name)
        np.testing.assert_array_equal(found, expected)
        assert rate == RATE
    # Of recordings that cannot be read there is no sound, nor of those without a point.
    moved = made / "in" / "x.wav"
    moved.rename(made / "in" / "y.wav")
    try:
        run(made, f"--output={tmp_path}/moved.html", "--method=pca", "--self_contained")
    finally:
        (made / "in" / "y.wav").rename(moved)
    assert [bool(link) for link in data_of(tmp_path / "moved.html")["links"]] == [True, True, False]
    run(made, f"--output={tmp_path}/few.html", "--method=pca", "--self_contained", "--limit=2")
    few = data_of(tmp_path / "few.html")
    there = [bool(link) for link in few["links"]]
    assert there == [number in few["recording"] for number in range(3)]
    monkeypatch.setattr(pipeline, "SOUND_SECONDS", 17.9)  # there are 18
    capsys.readouterr()
    assert run(made, f"--output={tmp_path}/long.html", "--self_contained") == 1
    assert "its recordings last 0 minutes; expected at most 0" in capsys.readouterr().err
    assert not (tmp_path / "long.html").exists()


def test_projections():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(60, 8))
    centred = vectors - vectors.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    found = projection.project(vectors, "pca")
    np.testing.assert_allclose(np.abs(found), np.abs(centred @ axes[:2].T), atol=1e-9)
    for rows in (1, 2, 3, 5):
        assert np.isfinite(projection.project(vectors[:rows])).all()


def test_what_cannot_be(made, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(projection.importlib.util, "find_spec", lambda name: None)
    for arguments, message in (
        ((f"--output={tmp_path}/m.html", "--method=umap"), "expected the extra 'umap'"),
        ((f"--output={tmp_path}/m.htm",), "expected a file name that ends in .html"),
        ((f"--output={tmp_path}/m.html", "--labels=none"), "none: does not exist"),
    ):
        assert run(made, *arguments) == 1
        assert message in capsys.readouterr().err
    with pytest.raises(InputError, match="umap-learn"):
        projection.require_method("umap")


# What a person does, and what then is there, as the page's own text.
ACT = """
<script>
window.addEventListener("load", async () => {
  const told = {};
  const wait = milliseconds => new Promise(done => setTimeout(done, milliseconds));
  player.muted = true;
  const [x, y] = place(25), box = canvas.getBoundingClientRect();
  for (const type of ["pointerdown", "pointerup"])
    canvas.dispatchEvent(
      new PointerEvent(type, {pointerId: 1, clientX: box.x + x, clientY: box.y + y}));
  told.point = current;
  const playing = new Promise(done => player.addEventListener("playing", () => done(true)));
  told.playing = await Promise.race([playing, wait(8000)]) || false;
  told.time = player.currentTime;
  await Promise.race([new Promise(done => player.addEventListener("pause", done)), wait(8000)]);
  told.paused = [player.paused, player.currentTime];
  told.all = visible.length;
  for (const [id, value] of [["folder", '"fox"'], ["channel", "1"]]) {
    get(id).value = value;
    get(id).dispatchEvent(new Event("change"));
    told[id] = visible.length;
  }
  drawNow();
  const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
  told.drawn = pixels.some(value => value > 0);
  told.width = document.documentElement.scrollWidth;
  fetch("http://127.0.0.1:PORT/", {method: "POST", mode: "no-cors", body: JSON.stringify(told)});
});
HTMLElement.prototype.setPointerCapture = () => {};  // there is no such pointer
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium")
@pytest.mark.parametrize("sounds", ["--noself_contained", "--self_contained"])
def test_a_click_plays_and_a_filter_filters(made, tmp_path, sounds):
    place = made if sounds == "--noself_contained" else tmp_path
    assert run(made, f"--output={place}/chromium.html", "--method=pca", sounds) == 0
    told = {}

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            told.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as server:
        server.timeout = 120
        act = ACT.replace("PORT", str(server.server_port))
        page = place / "acted.html"
        page.write_text((place / "chromium.html").read_text().replace("</body>", f"{act}</body>"))
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,800"]
        options += ["--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0"]
        options += [f"--user-data-dir={tmp_path}/profile"]
        browser = subprocess.Popen(
            ["chromium", *options, page.as_uri()], stderr=subprocess.DEVNULL, process_group=0
        )
        try:
            server.handle_request()
        finally:
            os.killpg(browser.pid, signal.SIGTERM)
            browser.wait()
    assert told["point"] in range(20, 40)
    assert told["playing"]
    start = data_of(page)["start"][told["point"]]
    assert start <= told["time"] <= start + 1.2
    paused, at = told["paused"]
    assert paused
    assert start + 0.9 <= at <= start + 1.6
    assert (told["all"], told["folder"], told["channel"]) == (60, 20, 10)
    assert told["drawn"]
    assert told["width"] <= 500
