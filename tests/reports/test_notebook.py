"""What notebooks show: sounds and pages as HTML of its own."""

import base64
import html.parser
import io

import numpy as np
import soundfile

from sepssl.reports.found import Sound
from sepssl.reports.notebook import show_page, show_sounds


class Parser(html.parser.HTMLParser):
    """Tags with their attributes, as a browser reads them, and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data.strip())

    def all(self, tag, attribute):
        return [attributes[attribute] for name, attributes in self.tags if name == tag]


def test_sounds_are_heard_as_they_are_and_rows_have_one_scale():
    rng = np.random.default_rng(0)
    loud, quiet = (level * rng.uniform(-1, 1, 4000).astype(np.float32) for level in (2.0, 0.1))
    other = quiet[::-1].copy()
    page = Parser(
        show_sounds(
            [Sound("<loud> & so on", loud, 16000), Sound("quiet", quiet, 16000)],
            [Sound("other", other, 8000)],
        )._repr_html_()
    )
    captions = [text for text in page.texts if text and "{" not in text]  # nor styles
    assert captions == ["<loud> & so on", "quiet", "other"]
    scale = np.abs(loud).max()
    expected = [(loud / scale, 16000), (quiet / scale, 16000), (other, 8000)]
    for (waveform, rate), link in zip(expected, page.all("audio", "src"), strict=True):
        found, found_rate = soundfile.read(io.BytesIO(_content(link, "audio/wav")))
        np.testing.assert_allclose(found, waveform, atol=1.01 / 32768)
        assert found_rate == rate
    pictures = [_content(link, "image/png") for link in page.all("img", "src")]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures)
    assert len(pictures) == 3


def _content(link, kind):
    head, content = link.split(",")
    assert head == f"data:{kind};base64"
    return base64.b64decode(content)


def test_a_page_is_shown_whole_with_the_pages_in_it(tmp_path):
    inner = '<p title="&quot;">1 < 2 &amp; 3</p><script>const a = "<b>";</script>'
    (tmp_path / "map.html").write_text(inner)
    outer = (
        '<a href="map.html">Open</a><a href="https://a.b">there</a><a href="#here">here</a>'
        '<iframe src="map.html" title="Map"></iframe><iframe src="https://a.b"></iframe>'
    )
    (tmp_path / "index.html").write_text(outer)
    shown = Parser(show_page(tmp_path / "index.html", height=333)._repr_html_())
    ((tag, attributes),) = shown.tags
    assert (tag, attributes["height"]) == ("iframe", "333")
    page = Parser(attributes["srcdoc"])
    assert page.all("a", "href") == ["https://a.b", "#here"]
    framed, other = (attributes for tag, attributes in page.tags if tag == "iframe")
    assert framed == {"srcdoc": inner, "title": "Map"}
    assert other == {"src": "https://a.b"}
