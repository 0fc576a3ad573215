"""The page in docs/browser, in Chromium, beside the models in Python."""

import functools
import http.server
import json
import os
import pathlib
import shutil
import signal
import subprocess
import threading

import numpy as np
import pytest
import soundfile

import sepssl
from sepssl.export import convert_encoder, convert_separator
from sepssl.representation.windows import WindowEmbedder

PAGE = pathlib.Path(__file__).parents[2] / "docs" / "browser"
SECONDS = 440 * 256 / 16000  # of the recording: whole frames, as chunks are

# What a person does, and what then is there.
ACT = """
<script type="module">
import {ready, setMark, shown} from "./listen.js";
const send = (name, body) => fetch(name, {method: "POST", body});
addEventListener("unhandledrejection", event => send("told", JSON.stringify(`${event.reason}`)));
const status = document.getElementById("status"), file = document.getElementById("file");
const until = async holds => {
  while (!holds()) await new Promise(done => setTimeout(done, 50));
};
await ready;
const told = {loaded: status.textContent};
const choose = async name => {
  const files = new DataTransfer();
  files.items.add(new File([await (await fetch(name)).blob()], name));
  file.files = files.files;
  file.dispatchEvent(new Event("change"));
  await until(() => !file.disabled);
};
await choose("listen.js");
told.refused = status.textContent;
await choose("nan.wav");
told.nan = status.textContent;
await choose("short.wav");
for (const [i, row] of shown.rows.entries()) await send(`short${i}`, row.sound);
await choose("uneven.wav");
for (const [i, row] of shown.rows.entries()) await send(`uneven${i}`, row.sound);
await choose("recording.wav");
told.shown = status.textContent;
told.names = shown.rows.map(({name}) => name);
for (const [i, row] of shown.rows.entries()) {
  await send(`sound${i}`, row.sound);
  const vectors = row.windows.map(({vector}) => [...vector ?? []]);
  await send(`vectors${i}`, JSON.stringify(vectors));
}
const [row] = shown.rows, box = row.elements.picture.getBoundingClientRect();
row.elements.picture.dispatchEvent(
  new MouseEvent("click", {clientX: box.x + 2.5 / 7.04 * box.width, clientY: box.y + 9}));
told.marked = shown.mark.window;
told.similarities = row.similarities;
told.nearest = [...document.querySelectorAll("#nearest button")].map(it => it.textContent);
told.drawn = shown.rows.map(({elements: {canvas}}) => {
  const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return new Set(data).size;
});
row.elements.player.muted = true;
await row.elements.player.play();
told.duration = row.elements.player.duration;
told.width = document.documentElement.scrollWidth;
await send("told", JSON.stringify(told));
</script>
"""


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(204)
        self.end_headers()
        self.server.told[self.path[1:]] = body
        if self.path == "/told":
            self.server.all_told.set()

    def log_message(self, *_):
        pass


@pytest.fixture
def place(tmp_path):
    """The page's folder with LiteRT.js."""
    place = tmp_path / "browser"
    shutil.copytree(PAGE, place, ignore=shutil.ignore_patterns("node_modules", "*coder", "*rator"))
    command = ["npm", "install", "--no-audit", "--no-fund", "--fetch-retries=0"]
    installed = subprocess.run(command, cwd=place, capture_output=True, text=True)
    if installed.returncode != 0:
        pytest.skip(f"npm install: {installed.stderr[-300:]}")
    return place


def recording() -> np.ndarray:
    """Noise, with a hum and a chirp that come twice."""
    rng, rate = np.random.default_rng(0), 16000
    sound = 0.02 * rng.normal(size=round(SECONDS * rate))
    t = np.arange(rate) / rate
    chirp = np.sin(2 * np.pi * (500 * t + 1000 * t**2)) * np.hanning(rate)
    hum = np.sign(np.sin(2 * np.pi * 220 * t)) * np.hanning(rate)
    for at, part in ((0, 0.3 * hum), (2, 0.4 * chirp), (3.5, 0.5 * hum), (5, 0.4 * chirp)):
        sound[round(at * rate) :][:rate] += part
    return sound.astype(np.float32)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no Chromium")
@pytest.mark.skipif(not shutil.which("npm"), reason="no npm")
def test_a_file_is_separated_and_compared_as_in_python(place, forked_exports, tmp_path):
    encoder, separator = sepssl.load_encoder("small"), sepssl.load_separator("small")
    convert_encoder(encoder, place / "encoder", inputs=["patch"])
    card = convert_separator(separator, place / "separator", seconds=5)
    (check,) = card["checks"].values()
    chunk = check["shape"][1]
    assert chunk == 313 * 256  # the next whole frame
    sound = recording()
    soundfile.write(place / "recording.wav", sound, 16000, "FLOAT")
    short = sound[:30000]
    soundfile.write(place / "short.wav", short, 16000, "FLOAT")
    soundfile.write(place / "uneven.wav", sound[:-100], 16000, "FLOAT")
    broken = np.where(np.arange(30000) == 9, np.nan, short)
    soundfile.write(place / "nan.wav", broken, 16000, "FLOAT")
    acted = (place / "index.html").read_text().replace("</html>", f"{ACT}</html>")
    (place / "acted.html").write_text(acted)

    handler = functools.partial(Handler, directory=place)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.told, server.all_told = {}, threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=500,800"]
        options += ["--autoplay-policy=no-user-gesture-required", "--remote-debugging-port=0"]
        options += [f"--user-data-dir={tmp_path}/profile"]
        address = f"http://127.0.0.1:{server.server_port}/acted.html"
        browser = subprocess.Popen(
            ["chromium", *options, address], stderr=subprocess.DEVNULL, process_group=0
        )
        try:
            assert server.all_told.wait(200), sorted(server.told)
        finally:
            os.killpg(browser.pid, signal.SIGTERM)
            browser.wait()
            server.shutdown()

    told = json.loads(server.told["told"])
    assert told["loaded"] == "Choose a sound file, or record one."
    assert told["refused"] == "listen.js: no sound that this browser can read"
    assert told["nan"] == "nan.wav: holds NaN or infinity"
    repeated = separator.separate(np.resize(short, chunk), 16000)[:, : len(short)]
    heard = np.stack([np.frombuffer(server.told[f"short{i}"], np.float32) for i in range(1, 5)])
    np.testing.assert_allclose(heard, repeated, rtol=0, atol=1e-3 * np.abs(repeated).max())
    # The last chunk begins up to a hop later than Python's, and its end is filled with silence.
    uneven = separator.separate(sound[:-100], 16000, chunk_seconds=chunk / 16000)
    heard = np.stack([np.frombuffer(server.told[f"uneven{i}"], np.float32) for i in range(1, 5)])
    np.testing.assert_allclose(heard, uneven, rtol=0, atol=0.03 * np.abs(uneven).max())
    assert told["shown"] == "recording.wav, 7.0 s"
    assert told["names"] == ["Recording", *(f"Channel {i}" for i in range(1, 5))]
    channels = separator.separate(sound, 16000, chunk_seconds=chunk / 16000)
    sounds = np.concatenate([sound[None], channels])
    heard = np.stack([np.frombuffer(server.told[f"sound{i}"], np.float32) for i in range(5)])
    np.testing.assert_array_equal(heard[0], sounds[0])
    limit = 1e-3 * np.abs(channels).max()
    np.testing.assert_allclose(heard, sounds, rtol=0, atol=limit)
    windows = list(WindowEmbedder(encoder)([sounds]))
    expected = np.concatenate([batch.embeddings for batch in windows]).swapaxes(0, 1)
    vectors = np.array([json.loads(server.told[f"vectors{i}"]) for i in range(5)])
    assert vectors.shape == expected.shape
    cosines = np.sum(vectors * expected, axis=-1)
    cosines /= np.linalg.norm(vectors, axis=-1) * np.linalg.norm(expected, axis=-1)
    assert cosines.min() > 0.999

    # Half a second of 2.5 s on either side: the window that begins at 4 * 0.48 s.
    assert told["marked"] == 4
    unit = expected / np.linalg.norm(expected, axis=-1, keepdims=True)
    similarities = unit @ unit[0, 4]
    np.testing.assert_allclose(told["similarities"], similarities[0], atol=1e-3)
    similarities[0, 2:7] = 0  # windows that overlap the marked one
    assert len(told["nearest"]) == 5
    for text in told["nearest"]:  # each the nearest that overlaps none before it
        row, window = np.unravel_index(similarities.argmax(), similarities.shape)
        assert float(text.split()[-1]) == pytest.approx(similarities[row, window], abs=0.006)
        assert text.startswith(f"{told['names'][row]}, ")
        similarities[row, max(0, window - 2) : window + 3] = 0
    assert min(told["drawn"]) > 20
    assert told["duration"] == pytest.approx(SECONDS, abs=0.01)
    assert told["width"] <= 500
