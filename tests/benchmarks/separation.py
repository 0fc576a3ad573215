"""How fast the separator is, and how much memory it takes, beside Asteroid's on PyTorch.

    pip install -e '.[benchmark]'
    python tests/benchmarks/separation.py [inference training loss]

How it is measured, `contest.py` says. Ratios are to Asteroid's time; of inference, the share of the
speed that the same core reaches at multiplying matrices is told as well.
Asteroid's ConvTasNet has the sizes of the released MixIT model: 256
filters of 40 samples, 4 repeats of 8 blocks, 256 and 512 channels.
"""

import functools

from contest import main, noise, tensorflow

RATE = 16000
ROUNDS = {"inference": 7, "training": 9, "loss": 5}


def gemm():
    """20 products of the sizes in a block, each needing the one before."""
    tf = tensorflow()
    x, up, down = (tf.constant(noise(*s)) for s in ((8000, 256), (256, 512), (512, 256)))

    @tf.function
    def run(x):
        for _ in range(10):
            x = tf.matmul(tf.matmul(x, up), down) * 1e-3
        return x

    return lambda: run(x).numpy()


GEMM_FLOP = 10 * 2 * 2 * 8000 * 256 * 512


def inference_flop(sources, seconds):
    """Multiplications and additions in the dense layers."""
    frames = seconds * RATE / 20
    weights = 40 * 256 + 256 * 256 + 32 * 2 * 256 * 512 + sources * (256 * 256 + 256 * 40)
    return 2 * frames * weights


def separate(compile_, dtype="float32", sources=8, seconds=10):
    tf = tensorflow()
    import keras

    keras.config.set_dtype_policy(dtype)
    from sepssl.separation import Separator

    separator = Separator(sources)
    separator.build((None, None))
    x = tf.constant(noise(1, seconds * RATE))
    run = tf.function(separator.call, jit_compile=compile_)
    return lambda: run(x).numpy()


def asteroid_net(sources):
    import warnings

    warnings.simplefilter("ignore")
    import torch

    torch.set_num_threads(1)
    from asteroid.masknn import TDConvNet
    from asteroid.models.base_models import BaseEncoderMaskerDecoder
    from asteroid_filterbanks import make_enc_dec

    encoder, decoder = make_enc_dec("free", n_filters=256, kernel_size=40, stride=20)
    masker = TDConvNet(
        256, sources, 256, n_blocks=8, n_repeats=4, bn_chan=256, hid_chan=512, skip_chan=0,
        mask_act="sigmoid",
    )  # fmt: skip
    return torch, BaseEncoderMaskerDecoder(encoder, masker, decoder, encoder_activation="relu")


def asteroid_separate(compile_, sources=8, seconds=10):
    torch, net = asteroid_net(sources)
    x = torch.from_numpy(noise(1, seconds * RATE))
    run = torch.compile(net.eval()) if compile_ else net.eval()

    def inference():
        with torch.inference_mode():
            return run(x)

    return inference


def train(compile_, **tdcn):
    """A step on one mixture of two recordings of 1 s, 4 sources: loss, gradient, clipping, Adam."""
    tf = tensorflow()
    import keras

    from sepssl.separation import TDCN, Separator
    from sepssl.training.separator_learner import SeparatorLearner

    learner = SeparatorLearner(Separator(4, tdcn=TDCN(**tdcn)))
    learner.build()
    learner.compile(optimizer=keras.optimizers.Adam(1e-4), jit_compile=False)
    learner.optimizer.build(learner.trainable_variables)
    data = {"recordings": tf.constant(noise(2, RATE))}
    run = tf.function(learner.train_step, jit_compile=compile_)
    return lambda: float(run(data)["loss"])


def asteroid_train():
    torch, net = asteroid_net(4)
    from asteroid.losses import MixITLossWrapper
    from asteroid.losses.sdr import multisrc_neg_snr

    loss_of = MixITLossWrapper(multisrc_neg_snr)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    references = torch.from_numpy(noise(1, 2, RATE))

    def run():
        optimizer.zero_grad()
        loss = loss_of(net(references.sum(1)), references)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        return float(loss)

    return run


def loss(compile_, sources):
    tf = tensorflow()
    from sepssl.separation import mixit_loss

    references = tf.constant(noise(4, 2, 10 * RATE))
    estimates = tf.constant(noise(4, sources, 10 * RATE))

    @functools.partial(tf.function, jit_compile=compile_)
    def run(references, estimates):
        with tf.GradientTape() as tape:
            tape.watch(estimates)
            losses, _ = mixit_loss(references, estimates)
        return tape.gradient(losses, estimates)

    return lambda: run(references, estimates).numpy()


def asteroid_loss(sources):
    import torch
    from asteroid.losses import MixITLossWrapper
    from asteroid.losses.sdr import multisrc_neg_snr

    torch.set_num_threads(1)
    loss_of = MixITLossWrapper(multisrc_neg_snr)
    references = torch.from_numpy(noise(4, 2, 10 * RATE))
    estimates = torch.from_numpy(noise(4, sources, 10 * RATE)).requires_grad_()

    def run():
        estimates.grad = None
        loss_of(estimates, references).backward()

    return run


CONTESTANTS = {
    "inference": {
        "asteroid": lambda: asteroid_separate(False),
        "asteroid, torch.compile": lambda: asteroid_separate(True),
        "sepssl": lambda: separate(False),
        "sepssl, XLA": lambda: separate(True),
        "sepssl, bfloat16": lambda: separate(False, "mixed_bfloat16"),
        "matrix products": gemm,
    },
    "training": {
        "asteroid": asteroid_train,
        "sepssl, loop": lambda: train(False),
        "sepssl, loop, rematerialized": lambda: train(False, rematerialize=True),
        "sepssl, unrolled, XLA": lambda: train(True, unroll=True),
    },
    "loss": {
        f"{name}, M={sources}": functools.partial(*make, sources)
        for sources in (4, 8)
        for name, make in {
            "asteroid": (asteroid_loss,),
            "sepssl": (loss, False),
            "sepssl, XLA": (loss, True),
        }.items()
    },
}


def base(item: str, name: str) -> str:
    """Losses are compared at the same number of sources."""
    return "asteroid" if item != "loss" else f"asteroid, {name.split(', ')[-1]}"


def remarks(item: str, seconds: dict[str, float]) -> list[str]:
    """Shares of the core's speed at matrix products."""
    if item != "inference" or "matrix products" not in seconds:
        return []
    peak = GEMM_FLOP / seconds["matrix products"]
    return [f"matrix products: {peak / 1e9:.0f} GFLOP/s, of which"] + [
        f"{name:<30}{inference_flop(8, 10) / value / peak:6.0%}"
        for name, value in seconds.items()
        if name != "matrix products"
    ]


if __name__ == "__main__":
    main(__file__, CONTESTANTS, ROUNDS, base, remarks)
