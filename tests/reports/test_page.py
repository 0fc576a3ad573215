import html.parser
import math

import numpy as np
import pytest
import soundfile

from sepssl.audio.spectrogram import spectrogram_db
from sepssl.errors import InputError
from sepssl.reports.curves import curve
from sepssl.reports.page import Example, write_report

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


def write(folder, **arguments):
    empty = {
        "title": "Title",
        "introduction": [],
        "rows": [],
        "separator_metrics": [],
        "encoder_metrics": {},
        "examples": [],
        "class_examples": [],
        "facts": {},
    }
    return write_report(folder, **(empty | arguments))


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
    """A report with all that it can hold, and names that need care."""
    folder = tmp_path_factory.mktemp("report") / "report"
    tracks = [("Mixture", noise(1)), ("Channel <1>", noise(2, 0.01)), ("Silence", np.zeros(RATE))]
    loud = [("Loud", noise(3, peak=2.0)), ("Quiet", noise(4, peak=0.2))]
    index = write(
        folder,
        title="<script>alert(1)</script>",
        introduction=["5 < 6 & 7", "Second."],
        rows=[{"name": "<i>a</i>", "m&m": 0.5}],
        separator_metrics=SEPARATOR,
        encoder_metrics={"a$b$ & <c>": ENCODER, "without records": []},
        examples=[Example("Scene <1>", RATE, tracks), Example("Scene 2", RATE, loud)],
        class_examples=[
            Example(name, RATE, [("sound", noise(i))]) for i, name in enumerate(["dog/bark", "雨"])
        ],
        facts={"a < b": "<b>c</b>"},
    )
    assert index == folder / "index.html"
    return folder


def test_pages_refer_to_all_files_and_to_nothing_else(full):
    pages = [Page(full / "index.html"), Page(full / "classes.html")]
    links = {link for page in pages for link in page.links if not link.startswith("#")}
    files = {str(f.relative_to(full)) for f in full.rglob("*") if f.is_file()}
    assert links == files
    assert "classes.html" in pages[0].links
    assert {"figures/separator-training.png", "figures/separator-validation.png"} <= files
    assert "figures/encoders.png" in files
    assert all(page.missing_alt == 0 for page in pages)
    assert all((full / file).read_bytes()[:4] == b"\x89PNG" for file in files if "figures" in file)
    index = (full / "index.html").read_text(encoding="utf-8")
    assert all(f'id="{link[1:]}"' in index for link in pages[0].links if link.startswith("#"))


def test_text_is_escaped(full):
    for page in (Page(full / "index.html"), Page(full / "classes.html")):
        assert not {"script", "i", "c"} & set(page.tags)
        assert "<script>alert(1)</script>" in page.text
    text = Page(full / "index.html").text
    for shown in ("5 < 6 & 7", "<i>a</i>", "m&m", "a < b", "<b>c</b>", "Scene <1>", "Channel <1>"):
        assert shown in text


def test_audio_holds_the_waveforms(full):
    first = sorted((full / "audio").glob("example-1-*.wav"))
    expected = [noise(1), noise(2, 0.01), np.zeros(RATE)]
    for path, waveform in zip(first, expected, strict=True):
        assert soundfile.info(path).subtype == "PCM_16"
        read, rate = soundfile.read(path)
        assert rate == RATE
        np.testing.assert_allclose(read, waveform, atol=1 / 32767)


def test_tracks_are_scaled_alike_only_where_one_would_clip(full):
    loud, quiet = sorted((full / "audio").glob("example-2-*.wav"))
    np.testing.assert_allclose(soundfile.read(loud)[0], noise(3, peak=1.0), atol=1 / 32767)
    np.testing.assert_allclose(soundfile.read(quiet)[0], noise(4, peak=0.1), atol=1 / 32767)
    assert Page(full / "index.html").text.count("6.0 dB lower") == 1


def test_table_marks_the_best_and_shows_what_is_missing(tmp_path):
    rows = [
        {"name": "a", "mAP": 0.25, "AUC": math.nan, "note": "x", "alone": 1.0},
        {"name": "b", "mAP": np.float32(0.5), "AUC": 0.7004, "d": -1.0, "count": 3},
        {"name": "c", "mAP": 0.125, "AUC": 0.7001, "d": -math.inf, "count": 12},
        {"name": "d", "mAP": None, "AUC": math.inf, "d": -2.0},
    ]
    # fmt: off
    assert cells(write(tmp_path / "report", rows=rows)) == [
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


def test_empty_parts_are_left_out(tmp_path):
    page = Page(write(tmp_path / "report", encoder_metrics={"a": []}))
    assert page.links == []
    assert "h2" not in page.tags
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == [
        "audio",
        "figures",
        "index.html",
    ]


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
    page = Page(write(tmp_path / "report", separator_metrics=records))
    assert sum("figures/" in link for link in page.links) == 1


def test_refuses_a_folder_that_holds_something(tmp_path):
    (tmp_path / "kept.txt").write_text("kept")
    with pytest.raises(InputError, match="is not empty"):
        write(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.parametrize(
    "waveform", [np.array([0.0, np.nan]), np.zeros((2, 9)), np.zeros(0), np.zeros(9, np.int16)]
)
def test_refuses_what_is_no_waveform(tmp_path, waveform):
    example = Example("Scene", RATE, [("Mixture", waveform)])
    with pytest.raises(InputError, match=r"Scene, Mixture: .* expected"):
        write(tmp_path / "report", examples=[example])
    assert not list(tmp_path.iterdir())


def test_leaves_matplotlib_as_it_was(tmp_path):
    import matplotlib

    before = dict(matplotlib.rcParams)
    write(tmp_path / "report", separator_metrics=SEPARATOR)
    assert dict(matplotlib.rcParams) == before
