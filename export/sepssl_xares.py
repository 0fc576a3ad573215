"""An audio encoder behind the interface of X-ARES.

    PYTHONPATH=FOLDER python -m xares.run sepssl_xares.py TASK.py [TASK.py ...]

Needs TensorFlow, PyTorch, and what lies in its folder: a SavedModel and `sepssl_hear.py`.
"""

import sepssl_hear
import torch


class SepsslEncoder(torch.nn.Module):
    """Embeds the patches around every 50 ms or less of a recording.

    Attributes:
        sampling_rate: in Hz, of what it takes.
        output_dim: size of an embedding.
        hop_size_in_ms: from one embedding to the next.
    """

    def __init__(self):
        super().__init__()
        self.model = sepssl_hear.load_model()
        self.sampling_rate = self.model.sample_rate
        self.output_dim = self.model.timestamp_embedding_size
        self.hop_size_in_ms = 1000 * self.model.hop_samples / self.model.sample_rate

    def forward(self, audio: torch.Tensor) -> torch.Tensor:
        """Embeds recordings, on whatever device TensorFlow computes.

        Args:
            audio: [recordings, samples] or [samples], in [-1, 1].

        Returns:
            float32 [recordings, timestamps, output_dim], on the audio's device.
        """
        waveforms = torch.atleast_2d(audio).detach().cpu().numpy()
        embeddings, _ = sepssl_hear.get_timestamp_embeddings(waveforms, self.model)
        return torch.from_numpy(embeddings.numpy()).to(audio.device)
