"""The encoder that comes with the package, `small`.

    sepssl-train --config=configs/encoder_shipped.py --workdir=/tmp/small \
        --config.data.directory=mix:SOUNDS.csv

Half of its pairs are two patches of a mixture, half a patch of the mixture and one of a channel of
the shipped separator. SOUNDS.csv: tests/benchmarks/gpu/sounds.py.
"""

from ml_collections import ConfigDict

from sepssl.configs import encoder_small


def get_config() -> ConfigDict:
    config = encoder_small.get_config()
    config.data.mix.update(folds="0,1,2,3,4")
    config.views.update(
        separators="small", mixture_mixture=0.5, mixture_channel=0.5, equalization_db=0.0
    )
    config.encoder.update(embedding_size=512)
    config.train.update(steps=5000, probe_clips=0)
    return config
