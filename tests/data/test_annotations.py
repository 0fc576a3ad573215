import math

import numpy as np
import pytest

from sepssl.data.annotations import Annotation, RecordingMatch, label_windows, read_annotations
from sepssl.errors import InputError

HEAD = "Selection\tView\tChannel\tBegin Time (s)\tEnd Time (s)\tLow Freq (Hz)\tHigh Freq (Hz)"


def read(folder, name, text, **options):
    (folder / name).write_text(text, encoding="utf-8")
    return [a[:6] for a in read_annotations(folder / name, **options)]


def test_raven_tables(tmp_path):
    # A row in every view; the times in the file where there is an offset; no label, no annotation.
    text = (
        f"{HEAD}\tBegin Path\tFile Offset (s)\tSpecies\n"
        "1\tWaveform 1\t1\t60.5\t61.5\t0\t8000\tC:\\rec\\a.wav\t0.5\towl\n"
        "1\tSpectrogram 1\t1\t60.5\t61.5\t0\t8000\tC:\\rec\\a.wav\t0.5\towl\n"
        "2\tSpectrogram 1\t1\t70\t71\t0\t8000\tC:\\rec\\a.wav\t10\t\n"
        "3\tSpectrogram 1\t1\t80\t81\t0\t8000\tC:\\rec\\a.wav\t20\t-\n"
    )
    found = read(tmp_path, "x.txt", text)
    assert found == [
        (r"C:\rec\a.wav", 0.5, 1.5, "owl", True, False),
        (r"C:\rec\a.wav", 20.0, 21.0, "", True, False),
    ]
    text = f"{HEAD}\tCall\tWindow\n1\tSpectrogram 1\t1\t1\t2\t0\t8000\tsong\t17\n"
    with pytest.raises(InputError, match="a column of labels, Annotation, or the one that"):
        read(tmp_path, "b.Table.1.selections.txt", text)
    found = read(tmp_path, "b.Table.1.selections.txt", text, label_column="Call")
    assert found == [(str(tmp_path / "b"), 1.0, 2.0, "song", True, True)]
    # Nothing but the head: nothing is in the recording.
    found = read(tmp_path, "c.selections.txt", f"{HEAD}\tAnnotation\n")
    assert found == [(str(tmp_path / "c"), 0.0, math.inf, "", True, False)]


def test_audacity_tracks_and_csv(tmp_path):
    track = "0.5\t1.5\towl\n\\\t100.0\t900.0\n3\t3\tclick\n4\t5\t\n"
    assert read(tmp_path, "d.txt", track) == [
        (str(tmp_path / "d"), 0.5, 1.5, "owl", True, False),
        (str(tmp_path / "d"), 3.0, 3.0, "click", True, False),
    ]
    table = 'file,start,end,label,more\na.wav,0,1,"owl;fox",1\nb/a.wav,2,3,,2\n'
    assert read(tmp_path, "e.csv", table) == [
        ("a.wav", 0.0, 1.0, "fox", True, False),
        ("a.wav", 0.0, 1.0, "owl", True, False),
    ]
    text = 'file,start,end,label\na.wav,0,1," big\n\t owl"\n'
    assert read(tmp_path, "g.csv", text)[0][3] == "big owl"
    assert read(tmp_path, "g.txt", "0\t1\tbig\u2028owl\n")[0][3] == "big owl"
    for name in ("g.csv", "g.txt"):
        (tmp_path / name).unlink()
    (alone,) = read(tmp_path, "f.csv", "file,start,end,label,window\na.wav,0,1,-,7\n")
    assert alone == ("a.wav", 0.0, 1.0, "", True, True)
    assert len(read_annotations(tmp_path)) == 5


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "a.csv",
            "file,start,end,label\na,0,nan,x\n",
            "a.csv, line 2: begins at 0 and ends at nan",
        ),
        ("a.csv", "file,start,end,label\na,2,1,x\n", "expected seconds, the end not before"),
        ("a.csv", "file,start\na,2\n", "has the columns file, start; expected a Raven"),
        (
            "a.csv",
            "file;start;end;label\na;0;1;x\n",
            r"end;label \(columns are separated by commas",
        ),
        ("a.txt", "hello\n", "a.txt, line 1: holds 'hello'"),
        ("a.txt", "x\ty\tz\n", "a.txt, line 1: begins at x and ends at y"),
        ("a.txt", f"{HEAD}\tLabel\n1\tS\t1\t-1\t2\t0\t1\tx\n", "selection 1: begins at -1"),
    ],
)
def test_files_that_cannot_be_read(tmp_path, name, text, message):
    with pytest.raises(InputError, match=message):
        read(tmp_path, name, text)


# Windows of 2 s every second: six of a/1.wav, then two of b/1.wav, then two of c.wav.
FILES = ["/rec/a/1.wav"] * 6 + ["/rec/b/1.wav"] * 2 + ["/rec/c.wav"] * 2
NAMES = [file.removeprefix("/rec/") for file in FILES]
STARTS = np.array([0, 1, 2, 3, 4, 5, 0, 1, 0, 1], float)


def labelled(*annotations, unlabelled="negative"):
    return label_windows(FILES, NAMES, STARTS, STARTS + 2, annotations, unlabelled)


def test_windows_have_a_class_from_half_of_the_shorter_on():
    # 2 to 3 s: half of it lies in [2, 4] and [1, 3] (all of it), and [0, 2], [3, 5] only touch it.
    short = Annotation("a/1.wav", 2.0, 3.0, "owl")
    # 4.4 s to the end: [5, 7] and [4, 6] by 1.6 s; [3, 5] by 0.6 s, less than half of a window.
    long = Annotation("a/1.wav", 4.4, 9.0, "fox")
    point = Annotation("a/1", 6.5, 6.5, "fox")
    found = labelled(short, long, point)
    assert found.classes == ["fox", "owl"]
    np.testing.assert_array_equal(found.labels[:6, 1], [0, 1, 1, 0, 0, 0])
    np.testing.assert_array_equal(found.labels[:6, 0], [0, 0, 0, -1, 1, 1])
    assert (found.labels[6:] == -1).all()
    assert found.looked_at.tolist() == [True] * 6 + [False] * 4
    # Without the rest, only windows with a label are known, those with another class as without.
    found = labelled(short, long, unlabelled="ignore")
    np.testing.assert_array_equal(found.labels[:6, 1], [-1, 1, 1, -1, 0, 0])
    np.testing.assert_array_equal(found.labels[:6, 0], [-1, 0, 0, -1, 1, 1])


def test_labels_of_single_windows_and_of_what_is_not_there():
    owl = Annotation("c.wav", 0.0, 2.0, "owl", alone=True)
    nothing = Annotation("b/1.wav", 0.0, math.inf, "")
    no_owl = Annotation("a/1.wav", 0.0, 2.0, "owl", present=False, alone=True)
    perhaps = Annotation("a/1.wav", 4.0, 6.0, "owl", present=None, alone=True)
    found = labelled(owl, nothing, no_owl, perhaps)
    # [1, 3] shares half with [0, 2], so both of c.wav have it.
    np.testing.assert_array_equal(found.labels[:, 0], [0, 0, -1, -1, -1, -1, 0, 0, 1, 1])


def test_recordings_by_what_they_are_called():
    for name, file in (
        ("/old/disk/rec/b/1.wav", 6),
        ("C:/data/b/1", 6),
        (r"C:\data\b\1.wav", 6),
        (r"b\1.wav", 6),
        ("clips/c.wav", 8),
        ("c", 8),
        ("/rec/c.wav", 8),
    ):
        found = labelled(Annotation(name, 0.0, 2.0, "x"))
        assert found.labels[file, 0] == 1, name
        assert not found.unmatched
    with pytest.raises(InputError, match=r"t, line 1: 1.wav may be /rec/a/1.wav or /rec/b/1.wav"):
        labelled(Annotation("1.wav", 0.0, 2.0, "x", where="t, line 1"))
    found = labelled(Annotation("c.wav", 0.0, 2.0, "x"), Annotation("d.wav", 0.0, 2.0, "y"))
    assert [a.recording for a in found.unmatched] == ["d.wav"]
    with pytest.raises(InputError, match=r"d.wav is no recording of the index"):
        labelled(Annotation("d.wav", 0.0, 2.0, "y"))
    found = labelled(Annotation("c.wav", 50.0, 52.0, "x"))
    assert len(found.outside) == 1


def test_a_label_on_a_window_that_was_left_out_is_named():
    """Windows of 2 s, those from 2 to 6 s without sound: what is heard in one of these is lost."""
    starts = np.array([0.0, 6.0, 8.0])
    files = ["/rec/a.wav"] * 3
    lost, partly = Annotation("a.wav", 2.5, 5.0, "x"), Annotation("a.wav", 1.8, 3.0, "y")
    kept = Annotation("a.wav", 1.5, 2.5, "z")
    found = label_windows(files, ["a.wav"] * 3, starts, starts + 2, [lost, partly, kept])
    assert found.outside == [lost, partly]
    np.testing.assert_array_equal(found.labels, [[0, -1, 1], [0, 0, 0], [0, 0, 0]])


def test_recordings_by_what_tables_call_them():
    """As `printable` writes names that are not UTF-8 or have line breaks; the first one may."""
    backslash, broken, raw = "/r/new\\nline.wav", "/r/two\nlines.wav", "/r/lat\udce4in.wav"
    files = [backslash, broken, raw]
    match = RecordingMatch(["new\\nline.wav", "two\nlines.wav", r"lat\udce4in.wav"], files)
    for name, found in (
        (r"new\nline.wav", backslash),
        ("two\nlines.wav", broken),
        (r"two\nlines.wav", broken),
        (r"/r/two\nlines.wav", broken),
        (r"/r/lat\udce4in.wav", raw),
        (r"elsewhere/lat\udce4in.wav", raw),
        (r"elsewhere/two\nlines.wav", broken),
        (r"X:\r\two\nlines.wav", None),
    ):
        assert match.find(Annotation(name, 0.0, 1.0, "x")) == found, name
    # A name that is written so is meant before one that is only shown so.
    both = RecordingMatch(["two\\nlines.wav", "two\nlines.wav"], ["/r/two\\nlines.wav", broken])
    assert both.find(Annotation(r"/r/two\nlines.wav", 0.0, 1.0, "x")) == "/r/two\\nlines.wav"


def test_recordings_of_windows():
    match = RecordingMatch(["a.wav", "x/sub/a.wav"], ["/r/a.wav", "/r/x/sub/a.wav"])
    for name in (
        r".\sub\a.wav",
        r"sub\a.wav",
        r"x\sub/a.wav",
        r"D:\rec\x\sub/a.wav",
        r"\\srv\share\x\sub\a.wav",
    ):
        assert match.find(Annotation(name, 0.0, 1.0, "x")) == "/r/x/sub/a.wav", name


def test_a_path_tells_recordings_of_one_name_apart(tmp_path):
    match = RecordingMatch(["a.wav", "sub/a.wav"], ["/r/a.wav", "/r/sub/a.wav"])
    table = tmp_path / "t.csv"
    for path, found in (
        ("/r/a.wav", "/r/a.wav"),
        ("/r/sub/a.wav", "/r/sub/a.wav"),
        (r"D:\r\sub\a.wav", "/r/sub/a.wav"),
    ):
        table.write_text(f"file,start,end,label,path\na.wav,0,1,owl,{path}\n")
        assert [match.find(a) for a in read_annotations(table)] == [found]
    # Of a column that has something else, such as the folder, nothing is taken.
    for path in ("", "/r/sub", "/r/sub/", "elsewhere"):
        table.write_text(f"file,start,end,label,path\nsub/a.wav,0,1,owl,{path}\n")
        assert [match.find(a) for a in read_annotations(table)] == ["/r/sub/a.wav"]
    table.write_text("file,start,end,label,path\na.wav,0,1,owl,\n")
    with pytest.raises(InputError, match="may be"):
        match.find(read_annotations(table)[0])


def test_what_unlabelled_windows_are_is_one_of_two():
    with pytest.raises(ValueError, match="unlabelled='negativ': expected one of negative, ignore"):
        label_windows(FILES, NAMES, STARTS, STARTS + 2, [], "negativ")
