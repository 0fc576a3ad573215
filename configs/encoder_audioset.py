"""An encoder of full size, for accelerators: CNN14 on views of several convergence states.

    sepssl-train --config=configs/encoder_audioset.py --workdir=/data/encoder \
        --config.data.directory=/data/audioset \
        --config.views.separators=/data/separator/states/step-0100000.keras,/data/separator/final.keras

Two million clips of 10 s are separated in every step, not stored. All values are our choice; nobody
has run this to its end yet.
"""

from ml_collections import ConfigDict

from sepssl.configs import encoder_small


def get_config() -> ConfigDict:
    config = encoder_small.get_config()
    config.data.clip_seconds = 10.0
    config.encoder.backbone = "cnn14"
    config.views.update(
        online=True, max_distance_seconds=8.0, mixture_channel=0.5, channel_channel=0.5
    )
    config.train.update(
        steps=500000,
        batch_size=1024,
        learning_rate=3e-4,
        warmup_steps=5000,
        log_every=100,
        checkpoint_every=5000,
        probe_every=10000,
        probe_clips=2000,
        state_steps=(50000, 100000, 200000, 500000),
    )
    return config
