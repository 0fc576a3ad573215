import os
import sys
import zipfile

import numpy as np
import pytest
import tensorflow as tf

import sepssl
from sepssl.audio.panns_log_mel import slaney_mel_matrix
from sepssl.configs import encoder_smoke
from sepssl.errors import InputError
from sepssl.export import save_encoder
from sepssl.representation.panns_checkpoint import import_panns
from sepssl.serialization import save_model
from sepssl.training.encoder import train_encoder

torch = pytest.importorskip("torch", reason="needs the extra `panns`")


def conv_block(inputs, outputs):
    return torch.nn.ModuleDict(
        {
            "conv1": torch.nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
            "bn1": torch.nn.BatchNorm2d(outputs),
            "conv2": torch.nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            "bn2": torch.nn.BatchNorm2d(outputs),
        }
    )


class Cnn14(torch.nn.Module):
    """PANNs' network in PyTorch, written from its description, with its names of parameters."""

    def __init__(self, fft_length, width=2, embedding_size=8, bands=64):
        super().__init__()
        self.hop = fft_length * 5 // 16
        bins, rate = fft_length // 2 + 1, fft_length * 125 // 4
        angles = 2 * np.pi * np.outer(np.arange(bins), np.arange(fft_length)) / fft_length
        window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(fft_length) / fft_length)
        stft = {}
        for name, wave in (("conv_real", np.cos(angles)), ("conv_imag", -np.sin(angles))):
            stft[name] = torch.nn.Conv1d(1, bins, fft_length, stride=self.hop, bias=False)
            stft[name].weight.data = torch.tensor((wave * window)[:, None], dtype=torch.float32)
        self.spectrogram_extractor = torch.nn.ModuleDict({"stft": torch.nn.ModuleDict(stft)})
        filters = slaney_mel_matrix(bands, bins, rate, 50.0, min(14000.0, rate / 2))
        self.logmel_extractor = torch.nn.Module()
        self.logmel_extractor.melW = torch.nn.Parameter(torch.tensor(filters))
        self.bn0 = torch.nn.BatchNorm2d(bands)
        for i in range(6):
            block = conv_block(width * 2 ** (i - 1) if i else 1, width * 2**i)
            setattr(self, f"conv_block{i + 1}", block)
        self.fc1 = torch.nn.Linear(32 * width, embedding_size)
        self.fc_audioset = torch.nn.Linear(embedding_size, 5)

    def log_mel(self, waveform):
        """[batch, samples] -> [batch, frames, bands]."""
        stft = self.spectrogram_extractor["stft"]
        half = stft["conv_real"].weight.shape[-1] // 2
        x = torch.nn.functional.pad(waveform[:, None], (half, half), mode="reflect")
        power = stft["conv_real"](x) ** 2 + stft["conv_imag"](x) ** 2
        mel = power.transpose(1, 2) @ self.logmel_extractor.melW
        return 10 * torch.log10(torch.clamp(mel, min=1e-10))

    def embed(self, log_mel):
        """[batch, frames, bands] -> [batch, embedding_size]."""
        x = self.bn0(log_mel[:, None].transpose(1, 3)).transpose(1, 3)
        for i in range(1, 7):
            block = getattr(self, f"conv_block{i}")
            x = torch.relu(block["bn1"](block["conv1"](x)))
            x = torch.relu(block["bn2"](block["conv2"](x)))
            x = torch.nn.functional.avg_pool2d(x, 2 if i < 6 else 1)
        x = x.mean(dim=3)
        return torch.relu(self.fc1(x.max(dim=2)[0] + x.mean(dim=2)))


def random_network(fft_length=512, **kwargs):
    torch.manual_seed(0)
    network = Cnn14(fft_length, **kwargs).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 1.0, 2.0)
            torch.nn.init.normal_(module.bias, std=0.3)
            torch.nn.init.normal_(module.running_mean, std=0.3)
            torch.nn.init.uniform_(module.running_var, 0.1, 0.5)
    torch.nn.init.normal_(network.bn0.running_mean, -40.0, 5.0)
    torch.nn.init.uniform_(network.bn0.running_var, 50.0, 150.0)
    return network


def write(path, network, **changes):
    state = network.state_dict() | changes
    state = {key: value for key, value in state.items() if value is not None}
    torch.save({"iteration": 600000, "model": state}, path)
    return path


@pytest.mark.parametrize(("fft_length", "sample_rate"), [(1024, 32000), (512, 16000)])
def test_equals_the_network_in_pytorch(fft_length, sample_rate, tmp_path):
    network = random_network(fft_length)
    encoder = import_panns(write(tmp_path / "Cnn14.pth", network))
    assert encoder.sample_rate == sample_rate
    assert (encoder.embedding_size, encoder.backbone.width) == (8, 2)
    hop = network.hop
    waveform = 0.1 * np.random.default_rng(0).normal(size=(2, 110 * hop)).astype(np.float32)
    with torch.no_grad():
        log_mel = network.log_mel(torch.tensor(waveform))
        expected = network.embed(log_mel[:, 2:98]).numpy()
        whole = network.embed(log_mel).numpy()
    assert expected.max() > 0.1
    assert np.abs(whole - expected).max() > 0.01
    # PANNs' third frame is the first that lies within the waveform.
    found = encoder.patch_embeddings(waveform[:, 2 * hop - fft_length // 2 :])
    assert found.shape == (2, 2, 8)  # the second ends with the waveform
    np.testing.assert_allclose(found[:, 0], expected, atol=1e-4)
    np.testing.assert_allclose(encoder.backbone(log_mel.numpy()), whole, atol=1e-4)
    save_model(encoder, tmp_path / "panns.keras")
    loaded = sepssl.load_encoder(tmp_path / "panns.keras")
    np.testing.assert_array_equal(loaded(waveform), encoder(waveform))


@pytest.mark.slow
def test_a_training_starts_from_it(tmp_path):
    encoder = import_panns(write(tmp_path / "Cnn14.pth", random_network(1024)))
    save_model(encoder, tmp_path / "panns.keras")
    config = encoder_smoke.get_config()
    config.data.update(num_clips=8, clip_seconds=1.0, sample_rate=32000)
    config.views.max_distance_seconds = 0.0
    config.train.update(steps=2, warmup_steps=0, batch_size=8, state_steps=(0, 2), probe_clips=0)
    config.train.init_from = str(tmp_path / "panns.keras")
    run = train_encoder(config, tmp_path / "run")
    start, end = (sepssl.load_encoder(path) for path in (run.state(0), run.final))
    for found, expected in zip(start.get_weights(), encoder.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert not np.array_equal(end.backbone.dense.kernel, encoder.backbone.dense.kernel)
    save_encoder(end, tmp_path / "exported")
    waveform = 0.1 * np.random.default_rng(0).normal(size=(1, 40000)).astype(np.float32)
    exported = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(exported(waveform), end(waveform), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("core", [b"numpy._core.multiarray", b"numpy.core.multiarray"])
def test_the_state_of_the_sampler_does_not_matter(core, tmp_path):
    """In PyTorch's old format, and of NumPy 1, as the released files are."""
    network = random_network(width=1)
    sampler = {
        "indexes_per_class": [np.arange(3), np.arange(2, dtype=np.int32)],
        "pointers_of_classes": [np.int64(1), np.float64(2.0)],
    }
    content = {"model": network.state_dict(), "sampler": sampler}
    torch.save(content, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "old.pth").read_bytes()
    assert b"numpy._core.multiarray" in data or b"numpy.core.multiarray" in data
    for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
        data = data.replace(b"c" + name + b"\n", b"c" + core + b"\n")
    (tmp_path / "old.pth").write_bytes(data)
    encoder = import_panns(tmp_path / "old.pth")
    np.testing.assert_array_equal(encoder.backbone.dense.bias, network.fc1.bias.detach())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fc1.weight": None}, r"has no fc1\.weight; expected a checkpoint of PANNs' CNN14"),
        ({"bn0.bias": None}, r"has no bn0\.bias"),
        ({"bn0.bias": torch.zeros(3)}, r"bn0\.bias has the shape \[3\]; expected \[64\]"),
        (
            {"conv_block2.conv1.weight": torch.zeros(3, 2, 3, 3)},
            r"conv_block2\.conv1\.weight has the shape \[3, 2, 3, 3\]; expected \[4, 2, 3, 3\]",
        ),
        ({"fc1.weight": torch.zeros(8)}, r"fc1\.weight has the shape \[8\]; expected 2 axes"),
        ({"att_block.weight": torch.zeros(8)}, r"has att_block\.weight; expected only the keys of"),
        ({"logmel_extractor.melW": torch.zeros(257, 64)}, r"melW differs from .* 16000 Hz"),
        ({"logmel_extractor.melW": torch.zeros(257, 8)}, r"8 bands: expected at least 32"),
    ],
)
def test_other_networks_are_refused(changes, message, tmp_path):
    path = write(tmp_path / "Cnn14.pth", random_network(width=2), **changes)
    with pytest.raises(InputError, match=rf"Cnn14\.pth: .*{message}"):
        import_panns(path)


class Command:
    """Runs when it is unpickled."""

    def __reduce__(self):
        return os.system, ("exit 1",)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"missing\.pth: no such file; expected a PyTorch"):
        import_panns(tmp_path / "missing.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(InputError, match=r"text\.pth: could not be loaded"):
        import_panns(tmp_path / "text.pth")
    torch.save({"model": {"a": torch.zeros(2)}, "x": Command()}, tmp_path / "code.pth")
    with pytest.raises(InputError) as raised:
        import_panns(tmp_path / "code.pth")
    assert str(raised.value) == (
        f"{tmp_path}/code.pth: could not be loaded (holds {os.system.__module__}.system, which is "
        "no tensor); expected a PyTorch checkpoint of PANNs' CNN14"
    )
    torch.save({"state": {}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r'other\.pth: has no tensors at "model"'):
        import_panns(tmp_path / "other.pth")


def test_what_claims_more_than_the_file_holds_is_refused(tmp_path):
    network = random_network(width=2)
    boast = torch.zeros(1, 1, 1, 1).expand(10**5, 1, 3, 3)  # 36 bytes of the weights of 10 PB
    path = write(tmp_path / "view.pth", network, **{"conv_block1.conv1.weight": boast})
    with pytest.raises(InputError, match=r"conv_block1\.conv1\.weight is not a plain tensor"):
        import_panns(path)
    boast = torch.zeros(10**4, 1, 3, 3)
    path = write(tmp_path / "wide.pth", network, **{"conv_block1.conv1.weight": boast})
    with pytest.raises(InputError, match=r"wide\.pth: .*more weights than the"):
        import_panns(path)
    path = write(tmp_path / "bomb.pth", network)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(2**24))
    with pytest.raises(InputError, match=r"bomb\.pth: could not be loaded \(it claims"):
        import_panns(path)


def test_without_pytorch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(InputError, match=r"pip install 'sepssl\[panns\]'"):
        import_panns(tmp_path / "Cnn14.pth")


def test_the_command_writes_an_encoder(call, tmp_path):
    path = write(tmp_path / "Cnn14.pth", random_network(1024, width=1))
    waveform = np.random.default_rng(0).normal(size=(1, 40000)).astype(np.float32)
    result = call(
        "import_panns_checkpoint", f"--checkpoint={path}", f"--output={tmp_path / 'panns.keras'}"
    )
    assert (result.status, result.stderr) == (0, "")
    assert "embeddings of 8 at 32000 Hz, 64 mel bands" in result.stdout
    found = sepssl.load_encoder(tmp_path / "panns.keras")(waveform)
    np.testing.assert_allclose(found, import_panns(path)(waveform), atol=1e-5)
