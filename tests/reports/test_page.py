import base64
import html.parser
import io
import math
import re

import numpy as np
import pytest
import soundfile

from sepssl.audio.spectrogram import spectrogram_db
from sepssl.errors import InputError
from sepssl.reports.curves import curve
from sepssl.reports.found import Sound
from sepssl.reports.page import Section, write_page
from sepssl.reports.training import encoder_curves, separator_curves, state_section

RATE = 8000


class Page(html.parser.HTMLParser):
    """What a page refers to, its table cells as (text, bold), its tags and its text."""

    def __init__(self, path):
        super().__init__()
        self.links, self.cells, self.tags, self.text = [], [], [], ""
        self.missing_alt = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append(tag)
        self.links += [attributes[key] for key in ("src", "href") if key in attributes]
        self.missing_alt += tag == "img" and not attributes.get("alt")
        if tag in ("td", "th"):
            self.cells.append(["", False])
        if tag == "b":
            self.cells[-1][1] = True

    def handle_data(self, data):
        self.text += data
        if self.cells:
            self.cells[-1][0] += data.strip()


def write(path, *sections, title="Title", introduction=()):
    write_page(path, title, introduction, sections)
    return path


def cells(path):
    return [tuple(cell) for cell in Page(path).cells]


def noise(seed=0, peak=0.5, samples=RATE // 2):
    waveform = np.random.default_rng(seed).normal(size=samples)
    return (waveform * peak / np.abs(waveform).max()).astype(np.float32)


SEPARATOR = [
    {"step": 0, "validation/MSi": -2.0, "validation/SI-SNRi_2": -3.0, "validation/1S": 1.0},
    {"step": 10, "loss": 19.0, "snr": 4.0},
    {"step": 500, "loss": math.nan, "snr": math.inf},
    {"step": 1000, "loss": 15.0, "snr": 6.0},
    {"step": 1000, "validation/MSi": math.nan, "validation/SI-SNRi_2": 1.0, "validation/MoMi": 3.0},
]
ENCODER = [
    {"step": s, "loss": 5.0, "contrastive_accuracy": 0.1, "alignment": 0.3, "uniformity": -1.0}
    for s in (5, 10)
]


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """A page with all that it can hold, and names that need care."""
    tracks = [("Mixture", noise(1)), ("Channel <1>", noise(2, 0.01)), ("Silence", np.zeros(RATE))]
    loud = [("Loud", noise(3, peak=2.0)), ("Quiet", noise(4, peak=0.2))]
    rows = [[Sound(label, sound, RATE) for label, sound in row] for row in (tracks, loud)]
    classes = [[Sound(name, noise(i), RATE)] for i, name in enumerate(["dog/bark", "雨"])]
    curves = encoder_curves({"a$b$ & <c>": ENCODER, "without records": []})
    return write(
        tmp_path_factory.mktemp("page") / "index.html",
        Section("Results", table=[{"name": "<i>a</i>", "m&m": 0.5}]),
        *separator_curves(SEPARATOR),
        *curves,
        Section("Scenes", "Text < & so on", sounds=rows),
        Section("Classes", sounds=classes, folded=True),
        Section("Picture", picture=(b"PNG", "What < shows")),
        Section("Map", frame="map.html"),
        Section("Go on", commands=["sepssl-separate --input='a < b'"]),
        Section("Facts", facts={"a < b": "<b>c</b>"}),
        Section("Without anything", "Text alone"),
        Section("Without sounds", otherwise="Too few."),
        title="<script>alert(1)</script>",
        introduction=["5 < 6 & 7", "Second."],
    )


def test_a_page_needs_no_other_file_but_a_frame(full):
    page = Page(full)
    inner = {link for link in page.links if link.startswith("#")}
    others = {link for link in page.links if not link.startswith(("#", "data:"))}
    assert others == {"map.html"}
    assert list(full.parent.iterdir()) == [full]
    assert all(f'id="{link[1:]}"' in full.read_text(encoding="utf-8") for link in inner)
    assert len(inner) == 11
    assert page.missing_alt == 0
    assert "http" not in full.read_text(encoding="utf-8").replace("http://www.w3.org/", "")


def test_text_is_escaped(full):
    page = Page(full)
    assert not {"script", "i", "c"} & set(page.tags)
    for shown in ("<script>alert(1)</script>", "5 < 6 & 7", "<i>a</i>", "m&m", "a < b", "<b>c</b>",
                  "Channel <1>", "Text < & so on", "a$b$ & <c>", "--input='a < b'"):  # fmt: skip
        assert shown in page.text, shown
    assert "Text alone" not in page.text
    assert "Too few." in page.text


def test_curves_take_the_colours_of_the_page(full):
    text = full.read_text(encoding="utf-8")
    pictures = re.findall("<svg .*?</svg>", text, re.DOTALL)
    # Loss and SNR; by number of sources, alone, MoMi; loss, accuracy, alignment, uniformity.
    assert len(pictures) == 9
    for picture in pictures:
        assert "currentColor" in picture
        assert not re.search("#(000000|ffffff|010203)", picture)


def test_curves_refer_to_parts_of_their_own(full):
    text = full.read_text(encoding="utf-8")
    ids = re.findall('<[^>]* id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for picture in re.findall("<svg .*?</svg>", text, re.DOTALL):
        own = set(re.findall('<[^>]* id="([^"]+)"', picture))
        referred = set(re.findall(r'(?:url\(#|xlink:href="#)([^)"]+)', picture))
        assert referred
        assert referred <= own


def sounds(path):
    """(waveform, rate) of every sound of a page."""
    files = [
        link.partition(",")[2] for link in Page(path).links if link.startswith("data:audio/wav")
    ]
    return [soundfile.read(io.BytesIO(base64.b64decode(file))) for file in files]


def test_audio_holds_the_waveforms(full):
    expected = [noise(1), noise(2, 0.01), np.zeros(RATE)]
    for (read, rate), waveform in zip(sounds(full)[:3], expected, strict=True):
        assert rate == RATE
        np.testing.assert_allclose(read, waveform, atol=1 / 32767)


def test_tracks_are_scaled_alike_only_where_one_would_clip(full):
    (loud, _), (quiet, _) = sounds(full)[3:5]
    np.testing.assert_allclose(loud, noise(3, peak=1.0), atol=1 / 32767)
    np.testing.assert_allclose(quiet, noise(4, peak=0.1), atol=1 / 32767)
    assert Page(full).text.count("6.0 dB lower") == 1


def test_table_marks_the_best_and_shows_what_is_missing(tmp_path):
    rows = [
        {"name": "a", "mAP": 0.25, "AUC": math.nan, "note": "x", "alone": 1.0},
        {"name": "b", "mAP": np.float32(0.5), "AUC": 0.7004, "d": -1.0, "count": 3},
        {"name": "c", "mAP": 0.125, "AUC": 0.7001, "d": -math.inf, "count": 12},
        {"name": "d", "mAP": None, "AUC": math.inf, "d": -2.0},
    ]
    # fmt: off
    assert cells(write(tmp_path / "page.html", Section("Results", table=rows))) == [
        *((head, False) for head in ("name", "mAP", "AUC", "note", "alone", "d", "count")),
        ("a", False), ("0.250", False), ("nan", False), ("x", False), ("1.000", False),
        ("–", False), ("–", False),
        ("b", False), ("0.500", True), ("0.700", True), ("–", False), ("–", False),
        ("-1.000", True), ("3", False),
        ("c", False), ("0.125", False), ("0.700", True), ("–", False), ("–", False),
        ("-inf", False), ("12", True),
        ("d", False), ("–", False), ("inf", False), ("–", False), ("–", False),
        ("-2.000", False), ("–Bold: the largest value of a column.", False),
    ]
    # fmt: on


def test_curve_skips_what_is_not_a_finite_number():
    records = [
        {"step": 20, "loss": 1},
        {"step": 0, "validation/MoMi": 2.0},
        {"step": 5, "loss": 3.0},
        {"step": 10, "loss": math.nan},
        {"step": 15, "loss": -math.inf},
        {"step": 16, "loss": None},
        {"step": 17, "loss": "3"},
    ]
    assert curve(records, "loss") == ([5, 20], [3.0, 1.0])
    assert curve(records, "validation/MoMi") == ([0], [2.0])
    assert curve(records, "snr") == ([], [])
    assert curve([], "loss") == ([], [])


def test_spectrogram_shows_level_and_frequency():
    sine = 0.1 * np.sin(2 * np.pi * 1000 * np.arange(RATE) / RATE)
    level = spectrogram_db(sine, RATE)
    assert level.shape == (129, 1 + math.ceil((RATE - 256) / 64))
    assert level[:, 10].argmax() == 32  # of 128 steps to 4 kHz
    assert level[32, 10] == pytest.approx(-20.0, abs=0.01)
    assert spectrogram_db(np.zeros(10), RATE).tolist() == [[-200.0]] * 129


@pytest.mark.parametrize(
    "records",
    [
        [{"step": 0, "validation/MoMi": 1.0}],
        [{"step": 7, "loss": 1.0}],
        [{"step": s, "loss": 1.0} for s in (1, 1_000_000)],
        [{"step": s, "validation/SI-SNRi_10": 1.0} for s in (0, 3, 900)],
    ],
)
def test_curves_of_few_records(tmp_path, records):
    page = Page(write(tmp_path / "page.html", *separator_curves(records)))
    assert page.tags.count("svg") == 1


def test_a_page_replaces_an_older_one_whole_or_not_at_all(tmp_path):
    path = write(tmp_path / "page.html", title="First")
    with pytest.raises(InputError):
        write(path, Section("Sounds", sounds=[[Sound("a", np.array([np.nan]), RATE)]]))
    assert "First" in path.read_text()
    write(path, title="Second")
    assert "First" not in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    "waveform", [np.array([0.0, np.nan]), np.zeros((2, 9)), np.zeros(0), np.zeros(9, np.int16)]
)
def test_refuses_what_is_no_waveform(tmp_path, waveform):
    section = Section("Scene", sounds=[[Sound("Mixture", waveform, RATE)]])
    with pytest.raises(InputError, match=r"Mixture: .* expected"):
        write(tmp_path / "page.html", section)
    assert not list(tmp_path.iterdir())


def test_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write(tmp_path / "page.html", *separator_curves(SEPARATOR))
    assert dict(matplotlib.rcParams) == before


def test_sounds_that_cannot_be_read_are_left_out(tmp_path):
    (tmp_path / "states").mkdir()
    tracks = np.random.default_rng(0).uniform(-0.5, 0.5, [800, 3]).astype(np.float32)
    broken = tracks.copy()
    broken[5, 1] = np.nan
    for name, found in (
        ("0000000", tracks),
        ("0000002", tracks),
        ("0000003", broken),
        ("x", tracks),
    ):
        soundfile.write(tmp_path / "states" / f"step-{name}.wav", found, 8000, "FLOAT")
    cut = tmp_path / "states" / "step-0000002.wav"
    cut.write_bytes(cut.read_bytes()[:20])
    section = state_section(tmp_path, "States", "Text.")
    clip, channels = section.sounds
    assert section.text == "Text."
    np.testing.assert_array_equal(clip[0].waveform, tracks[:, 0])
    np.testing.assert_array_equal([sound.waveform for sound in channels], tracks.T[1:])
    assert [sound.label for sound in channels] == ["step 0, channel 1", "step 0, channel 2"]


@pytest.mark.parametrize(("channels", "shown", "seconds"), [(8, 7, 180 / 57), (32, 2, 180 / 65)])
def test_the_sound_of_many_states_is_bounded(tmp_path, channels, shown, seconds):
    """Seven states of 10 s, as of separator_audioset, are 18 MB of samples for 8 channels."""
    (tmp_path / "states").mkdir()
    rate = 1000
    tracks = 0.1 * noise(0, samples=10 * rate)[:, None] * np.ones(channels + 1)
    tracks[6 * rate : 8 * rate] *= 5
    for state in range(7):
        soundfile.write(tmp_path / "states" / f"step-{state:07d}.wav", tracks, rate, "FLOAT")
    section = state_section(tmp_path, "States", "Text.")
    length = round(seconds * rate)
    rows = section.sounds
    assert [len(row) for row in rows] == [1] + [channels] * shown
    assert {len(sound.waveform) for row in rows for sound in row} == {length}
    starts = range(len(tracks) - length + 1)
    loudest = max(starts, key=lambda start: np.sum(tracks[start : start + length, 0] ** 2))
    expected = tracks[loudest : loudest + length, 0].astype(np.float32)
    np.testing.assert_array_equal(rows[0][0].waveform, expected)
    assert [rows[1][0].label, rows[-1][-1].label] == [
        "step 0, channel 1",
        f"step 6, channel {channels}",
    ]
    left_out = f"the loudest {seconds:.1f} s of 10.0 s, and {shown} of 7 states"
    assert left_out in section.text
