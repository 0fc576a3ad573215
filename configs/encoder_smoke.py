"""An encoder trained for a few steps on mixture/mixture pairs: shows that everything runs.

sepssl-train --config=configs/encoder_smoke.py --workdir=/tmp/encoder_smoke
"""

from ml_collections import ConfigDict

from sepssl.configs import encoder_small


def get_config() -> ConfigDict:
    config = encoder_small.get_config()
    config.data.update(num_clips=32, clip_seconds=2.0)
    config.views.update(mixture_mixture=1.0, mixture_channel=0.0, max_distance_seconds=1.0)
    config.encoder.embedding_size = 64
    config.train.update(
        steps=20,
        batch_size=16,
        log_every=5,
        checkpoint_every=10,
        warmup_steps=2,
        state_steps=(20,),
        probe_clips=40,
    )
    return config
