import itertools
import time

import numpy as np
import pytest
import tensorflow as tf

from sepssl.audio.log_mel import LogMel
from sepssl.representation import Encoder, SmallBackbone
from sepssl.separation import TDCN, LearnedBasis, Separator
from sepssl.training.loop import train_on_dataset
from sepssl.training.monitors import read_metrics
from sepssl.training.separator_learner import SeparatorLearner
from sepssl.training.similarity_learner import SimilarityLearner
from sepssl.training.usage import (
    Usage,
    describe_usage,
    gemm_peak,
    patch_flop,
    separation_flop,
)
from sepssl.views import FrontEnd


def separator():
    made = Separator(3, LearnedBasis(8, 40, 20), TDCN(4, 6, dilations_per_repeat=2, repeats=2))
    made.build((None, None))
    return made


def test_operations_of_a_separator_counted_by_hand():
    """Per frame: basis, bottleneck, four blocks of up, three taps and down, masks, decoder."""
    products = 40 * 8 + 8 * 4 + 4 * (4 * 6 + 3 * 6 + 6 * 4) + 4 * 3 * 8 + 3 * 8 * 40
    consistency = 4 * 3  # counted for every frame, though there is one for a mixture
    assert separation_flop(separator(), 190) == 2 * 10 * (products + consistency)


def test_operations_of_an_encoder_are_those_of_its_convolutions():
    encoder = Encoder(SmallBackbone(8, width=2))
    encoder.build((None, None))
    sizes = [1, 2, 4, 8, 8]
    convolutions = sum(
        2 * 9 * i * o * (96 // 2**n) * (64 // 2**n)
        for n, (i, o) in enumerate(itertools.pairwise(sizes), start=1)
    )
    assert patch_flop(encoder) == convolutions


def test_work_counts_a_step():
    one = separation_flop(separator(), 800)
    recordings, sources = np.zeros([8, 800], np.float32), np.zeros([2, 3, 800], np.float32)
    batch = {"recordings": recordings, "sources": sources, "mixtures": sources[:, 0]}
    mixit = SeparatorLearner(separator())
    assert mixit.work(batch) == (10, 3 * (8 // 2 + 2) * one)
    remixing = SeparatorLearner(separator(), objective="remixit", average_decay=0.9)
    assert remixing.work({"recordings": recordings}) == (8, 4 * 8 * one)
    encoder = Encoder(SmallBackbone(8, width=2))
    encoder.build((None, None))
    learner = SimilarityLearner(encoder, FrontEnd(LogMel()))
    batch = {"mixtures": np.zeros([5, 2, 15600], np.float32)}
    assert learner.work(batch) == (5, 3 * 2 * 5 * patch_flop(encoder))


def test_waiting_and_steps_are_told_apart():
    def slow():
        for batch in range(5):
            time.sleep(0.03)
            yield batch

    usage = Usage()
    for batch in usage.batches(slow()):
        usage.step(lambda: time.sleep(0.01))
        if batch == 0:
            usage.restart()
        time.sleep(0.05)  # an evaluation
    report = usage.report(examples=8, flop=1e6, peak=1e9)
    assert report["usage/waiting_for_data"] == pytest.approx(0.75, abs=0.1)
    assert report["usage/examples_per_second"] == pytest.approx(8 / 0.04, rel=0.3)
    assert report["usage/gflop_per_second"] == pytest.approx(1e6 / 0.04 / 1e9, rel=0.3)
    assert report["usage/share_of_gemm_peak"] == pytest.approx(
        report["usage/gflop_per_second"], rel=1e-6
    )
    assert 0.05 < report["usage/memory_gb"] < 100
    assert "GFLOP/s" in describe_usage(report)
    assert Usage().report(examples=8) == {}
    assert describe_usage({"loss": 1.0}) == ""


def test_matrix_products_run_at_a_plausible_speed():
    assert 1e8 < gemm_peak("float32") < 1e16


def test_the_end_of_a_run_reports(tmp_path, capsys):
    data = tf.data.Dataset.from_tensors({"recordings": np.ones([4, 400], np.float32)})
    train_on_dataset(data, lambda: SeparatorLearner(separator()), tmp_path / "run", steps=3)
    records = read_metrics(tmp_path / "run" / "metrics.jsonl")
    reports = [record for record in records if any(key.startswith("usage/") for key in record)]
    assert [record["step"] for record in reports] == [3]
    assert reports[0]["usage/examples_per_second"] > 0
    assert reports[0]["usage/share_of_gemm_peak"] < 1
    assert "examples/s" in capsys.readouterr().out
    events = b"".join(file.read_bytes() for file in tmp_path.rglob("events.out.tfevents*"))
    assert b"usage/waiting_for_data" in events
