"""How fast encoders and their objectives are, beside the same networks on PyTorch.

    pip install -e '.[benchmark]'
    python tests/benchmarks/representation.py [inference training front_end nt_xent coincidence]

How it is measured, `contest.py` says. Networks are of full size, on patches of 96 frames of 64
bands. A training step: the network on two views of a batch, projection, NT-Xent, gradient, Adam.
"""

import functools
import itertools

from contest import main, noise, tensorflow

BATCH = {"small": 32, "mobilenet_v1": 16, "cnn14": 4}  # patches, in inference and in a view
ROUNDS = {"inference": 9, "training": 9, "front_end": 15, "nt_xent": 15, "coincidence": 7}


def backbone(name):
    from sepssl.representation.build import BACKBONES

    made = BACKBONES[name]()
    made.build((None, 96, 64))
    return made


def inference(name):
    tf = tensorflow()
    network = backbone(name)
    run = tf.function(network.call)
    x = tf.constant(noise(BATCH[name], 96, 64))
    return lambda: run(x).numpy()


def torch_network(name):
    import torch
    from torch import nn

    torch.set_num_threads(1)

    def conv(i, o, stride=1, size=3, groups=1):
        norm = [nn.BatchNorm2d(o), nn.ReLU()]
        return [nn.Conv2d(i, o, size, stride, size // 2, groups=groups, bias=False), *norm]

    class Pooled(nn.Module):
        def __init__(self, layers, size, pool, dense=None):
            super().__init__()
            self.layers, self.size, self.pool = nn.Sequential(*layers), size, pool
            self.dense = dense or nn.Identity()

        def forward(self, x):
            return self.dense(self.pool(self.layers(x[:, None])))

    def over_time(x):
        x = x.mean(3)
        return x.mean(2) + x.amax(2)

    if name == "small":
        sizes = [1, 32, 64, 128, 256]
        layers = [part for i, o in itertools.pairwise(sizes) for part in conv(i, o, 2)]
        return torch, Pooled(layers, 256, over_time)
    if name == "mobilenet_v1":
        from sepssl.representation.backbones.mobilenet_v1 import LAYERS

        layers, i = conv(1, 32, 2), 32
        for multiple, stride in LAYERS:
            layers += conv(i, i, stride, groups=i) + conv(i, 32 * multiple, size=1)
            i = 32 * multiple
        return torch, Pooled(layers, i, lambda x: x.mean((2, 3)))
    layers, i = [], 1
    for block in range(6):
        o = 64 * 2**block
        layers += [*conv(i, o), *conv(o, o)] + ([nn.AvgPool2d(2)] if block < 5 else [])
        i = o
    return torch, Pooled(layers, i, over_time, nn.Sequential(nn.Linear(i, i), nn.ReLU()))


def torch_inference(name, channels_last):
    torch, network = torch_network(name)
    network.eval()
    x = torch.from_numpy(noise(BATCH[name], 96, 64))
    if channels_last:
        network = network.to(memory_format=torch.channels_last)

    def run():
        with torch.inference_mode():
            return network(x)

    return run


def train(name):
    tf = tensorflow()
    import keras
    from keras import ops

    from sepssl.representation import ProjectionHead, nt_xent

    network, head = backbone(name), ProjectionHead()
    head.build((None, network.embedding_size))
    variables = network.trainable_variables + head.trainable_variables
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(variables)
    x = tf.constant(noise(2 * BATCH[name], 96, 64))

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            a, b = ops.split(head(network(x, training=True)), 2)
            loss = ops.mean(nt_xent(a, b, 0.1))
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss

    return lambda: float(run())


def torch_nt_xent_of(torch, a, b):
    z = torch.nn.functional.normalize(torch.cat([a, b]), dim=1)
    logits = z @ z.T / 0.1
    logits.fill_diagonal_(-1e9)
    n = len(a)
    return torch.nn.functional.cross_entropy(logits, (torch.arange(2 * n) + n) % (2 * n))


def torch_train(name, channels_last):
    torch, network = torch_network(name)
    nn = torch.nn
    head = nn.Sequential(nn.Linear(network.size, 256), nn.ReLU(), nn.Linear(256, 128))
    if channels_last:
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam([*network.parameters(), *head.parameters()], 1e-3)
    x = torch.from_numpy(noise(2 * BATCH[name], 96, 64))

    def run():
        optimizer.zero_grad()
        loss = torch_nt_xent_of(torch, *head(network(x)).chunk(2))
        loss.backward()
        optimizer.step()
        return float(loss)

    return run


def front_end(whole_step):
    """Of `configs/encoder_small.py`: 64 clips, 4 channels."""
    tf = tensorflow()
    import keras

    from sepssl.configs import encoder_small
    from sepssl.training.encoder import _make_learner

    learner = _make_learner(encoder_small.get_config())
    learner.build()
    learner.compile(optimizer=keras.optimizers.Adam(1e-3), jit_compile=False)
    learner.optimizer.build(learner.trainable_variables)
    samples = learner.front_end.log_mel.patch_samples
    batch = {
        "mixtures": tf.constant(noise(64, 2, samples)),
        "channels": tf.constant(noise(64, 2, 4, samples)),
        "uniforms": tf.random.uniform([64, learner.front_end.num_uniforms]),
    }
    run = tf.function(learner.train_step if whole_step else learner.front_end.call)
    if whole_step:
        return lambda: float(run(batch)["loss"])
    return lambda: run(batch)[0].numpy()


def log_mel():
    tf = tensorflow()
    from sepssl.audio.log_mel import LogMel

    run = tf.function(LogMel().spectrogram)
    x = tf.constant(noise(32, 64000))
    return lambda: run(x).numpy()


def torch_log_mel_of():
    """PyTorch's function [batch, samples] -> [batch, frames, bands]."""
    import torch

    from sepssl.audio.log_mel import LogMel

    torch.set_num_threads(1)
    layer = LogMel()
    window = torch.nn.functional.pad(torch.from_numpy(layer._window), (56, 56))
    mel = torch.from_numpy(layer._mel)

    def log_mel(x):
        spectrum = torch.stft(x, 512, 160, window=window, center=False, return_complex=True)
        return torch.log(spectrum.abs().transpose(1, 2) @ mel + 0.001)

    return log_mel


def torch_log_mel():
    import torch

    x, log_mel = torch.from_numpy(noise(32, 64000)), torch_log_mel_of()
    return lambda: log_mel(x)


def similarity():
    tf = tensorflow()
    from sepssl.representation import nt_xent

    a, b = (tf.constant(noise(2, 1024, 128)[i]) for i in range(2))

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            loss = tf.reduce_mean(nt_xent(a, b, 0.1))
        return tape.gradient(loss, [a, b])[0]

    return lambda: run().numpy()


def torch_similarity():
    import torch

    torch.set_num_threads(1)
    a, b = (torch.from_numpy(noise(2, 1024, 128)[i]).requires_grad_() for i in range(2))

    def run():
        a.grad = b.grad = None
        torch_nt_xent_of(torch, a, b).backward()

    return run


def coincidence(batch, concatenated=False):
    """Head of 256 units on embeddings of 256, loss and gradient."""
    tf = tensorflow()
    from sepssl.representation import CoincidenceHead, coincidence_loss

    head = CoincidenceHead(256)
    head.build((None, 256), (None, 256))
    a, b = (tf.constant(noise(2, batch, 256)[i]) for i in range(2))

    def all_pairs(a, b):
        pairs = tf.concat([tf.repeat(a, batch, 0), tf.tile(b, [batch, 1])], axis=1)
        kernel = tf.concat([head.left.kernel.value, head.right.kernel.value], axis=0)
        hidden = tf.nn.relu(pairs @ kernel + head.left.bias)
        return tf.reshape(head.logit(hidden), [batch, batch])

    @tf.function
    def run():
        with tf.GradientTape() as tape:
            tape.watch([a, b])
            logits = all_pairs(a, b) if concatenated else head(a, b, training=True)
            loss = coincidence_loss(logits)
        variables = [v.value for v in head.trainable_variables]
        return tape.gradient(loss, [a, b, *variables])[0]

    return lambda: run().numpy()


CONTESTANTS = {
    "inference": {
        f"{name}, {who}": functools.partial(make, name, *more)
        for name in BATCH
        for who, make, *more in (
            ("torch", torch_inference, False),
            ("torch channels_last", torch_inference, True),
            ("sepssl", inference),
        )
    },
    "training": {
        f"{name}, {who}": functools.partial(make, name, *more)
        for name in ("small", "mobilenet_v1")
        for who, make, *more in (
            ("torch", torch_train, False),
            ("torch channels_last", torch_train, True),
            ("sepssl", train),
        )
    },
    "front_end": {
        "whole step": lambda: front_end(True),
        "front end of it": lambda: front_end(False),
        "log-mel, torch": torch_log_mel,
        "log-mel, sepssl": log_mel,
    },
    "nt_xent": {"torch": torch_similarity, "sepssl": similarity},
    "coincidence": {
        "256 pairs, concatenated": lambda: coincidence(256, concatenated=True),
        "256 pairs, sepssl": lambda: coincidence(256),
        "1024 pairs, sepssl": lambda: coincidence(1024),
    },
}


def base(item: str, name: str) -> str:
    """The faster layout is told apart; ratios are to channels_last, CNN14's to NCHW."""
    network = name.split(",")[0]
    return {
        "inference": f"{network}, torch" + ("" if network == "cnn14" else " channels_last"),
        "training": f"{network}, torch channels_last",
        "front_end": "log-mel, torch" if network == "log-mel" else "whole step",
        "nt_xent": "torch",
        "coincidence": "256 pairs, concatenated",
    }[item]


def remarks(item: str, seconds: dict[str, float]) -> list[str]:
    if item != "front_end":
        return []
    share = seconds["front end of it"] / seconds["whole step"]
    return [f"front end: {share:.0%} of the step"]


if __name__ == "__main__":
    main(__file__, CONTESTANTS, ROUNDS, base, remarks)
