"""What Croissant metadata say of a folder as a whole."""

import datetime

import pytest

from sepssl.data.croissant import licences_of, write_croissant


def test_licences_of_the_recordings_and_the_day(tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant")
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,licence\na.wav,CC0\nb.wav,CC-BY\nc.wav,\nd.wav,CC0\n")
    sound = tmp_path / "a.wav"
    sound.write_bytes(b"RIFF\xff")
    assert licences_of(sound) == licences_of(tmp_path) == licences_of(tmp_path / "gone") == []
    (tmp_path / "labels.csv").write_text("filename,labels\na.wav,dog\n")
    assert licences_of(tmp_path) == []
    (tmp_path / "labels.csv").write_text("filename,labels,license\na.wav,dog,CC0\n")
    assert licences_of(tmp_path) == ["CC0"]
    assert licences_of(manifest) == ["CC-BY", "CC0"]
    for licences in (licences_of(manifest), []):
        write_croissant(tmp_path, "Sounds.", [], [], licences)
        metadata = mlcroissant.Dataset(tmp_path / "croissant.json").metadata
        assert not metadata.ctx.issues.errors
        assert (metadata.license or []) == licences
        today = datetime.date.today()
        assert metadata.date_created.date() in (today, today - datetime.timedelta(1))
