"""What makes the shards of a corpus: processes of this machine, or an Apache Beam pipeline."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib
import io
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import signal
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from sepssl.errors import InputError, OutputError, input_errors
from sepssl.files import lock_folder, writing_to
from sepssl.pipelines.corpus import (
    Corpus,
    Report,
    Shard,
    claim,
    finish,
    missing_shards,
    require_output,
)
from sepssl.progress import Progress, counted

if TYPE_CHECKING:
    from apache_beam.options.pipeline_options import PipelineOptions


def run_corpus(
    corpus: Corpus,
    processes: int = 1,
    options: Sequence[str] | None = None,
    importing: Callable[[str], object] = importlib.import_module,
    verbose: bool = True,
) -> Report:
    """Makes the shards of a corpus that are missing, and puts all together.

    Args:
        corpus: what is made.
        processes: how many local processes make them.
        options: of a Beam pipeline that makes them instead, as `--runner=DirectRunner`; None for
            local processes.
        importing: how local processes import TensorFlow, by its name.
        verbose: whether to show progress.

    Returns:
        What there is now.

    Raises:
        InputError: if the manifest or a model cannot be used, nothing can be made of any recording,
            or the output holds a corpus of others; if another process is running in it.
        OutputError: if something cannot be written. What is done stays; repeating goes on.
    """
    require_output(corpus.output)
    output = pathlib.Path(corpus.output)
    shards, skipped = corpus.shards()
    pipeline = None if options is None else beam_options(options)
    corpus.settings()  # names models that exist
    with writing_to(output):
        output.mkdir(parents=True, exist_ok=True)
    with lock_folder(output, wait=False):
        claim(corpus, shards)
        missing, changed = missing_shards(corpus, shards)
        rows = [len(shard.rows) for shard in shards]
        found = sum(rows) - sum(len(shard.rows) for shard in missing)
        title = "separating" if corpus.task == "separate" else "embedding"
        start = f"{title} {counted(len(missing), 'shard')} of {len(shards)} -> {output}"
        with Progress(title, sum(rows), "recording", found, start, verbose) as progress:
            if pipeline is None:
                run_locally(
                    corpus, missing, processes, lambda n: progress.update(rows[n]), importing
                )
            elif missing:
                run_on_beam(corpus, missing, pipeline)
                progress.update(sum(rows) - found)
        report = finish(corpus, shards, skipped)
    made = len(missing)
    return dataclasses.replace(report, made=made, found=len(shards) - made, changed=changed)


def make_shard(corpus: Corpus, shard: Shard) -> int:
    """`process_shard`; returns the shard's number."""
    from sepssl.pipelines.corpus_shards import process_shard  # imports TensorFlow

    process_shard(corpus, shard)
    return shard.number


def run_locally(
    corpus: Corpus,
    shards: Sequence[Shard],
    processes: int,
    done: Callable[[int], None],
    importing: Callable[[str], object] = importlib.import_module,
) -> None:
    """Makes shards in this process or, if more than one is asked for, in new ones.

    Args:
        corpus: what is made.
        shards: those to be made.
        processes: how many at the same time.
        done: called with the number of each shard that is done.
        importing: how TensorFlow is imported, by its name.

    Raises:
        InputError: as `process_shard`. OutputError: as `process_shard`; if a process is killed.
    """
    if processes == 1 or len(shards) < 2:
        if shards:
            importing("tensorflow")
        for shard in shards:
            done(make_shard(corpus, shard))
        return
    processes = min(processes, len(shards))
    threads = max(1, (os.cpu_count() or 1) // processes)
    others = set(multiprocessing.active_children())
    pool = concurrent.futures.ProcessPoolExecutor(
        processes, multiprocessing.get_context("spawn"), _begin, (threads, importing)
    )
    try:
        work = [pool.submit(make_shard, corpus, shard) for shard in shards]
        for future in concurrent.futures.as_completed(work):
            done(future.result())
        pool.shutdown()
    except BaseException as error:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()
        if isinstance(error, concurrent.futures.process.BrokenProcessPool):
            raise OutputError(
                f"{corpus.output}: a process ended before its shard was done, killed or for want "
                "of memory; the same command goes on with what is missing"
            ) from error
        raise


def _begin(threads: int, importing: Callable[[str], object]) -> None:
    """Sets a process up: it ends with the one that it works for, which alone answers to Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
    importing("tensorflow")
    import tensorflow as tf

    # All cores are for each process otherwise, and they would stand in each other's way.
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    for gpu in tf.config.list_physical_devices("GPU"):  # which one process would fill
        tf.config.experimental.set_memory_growth(gpu, True)


def beam_options(options: Sequence[str]) -> "PipelineOptions":
    """Options of a Beam pipeline.

    Raises:
        InputError: if apache-beam is not installed, or does not know the runner or an option. Those
            of portable runners, as Flink's, are known to their servers alone.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
        from apache_beam.runners import create_runner
        from apache_beam.runners.portability.portable_runner import PortableRunner
    except ImportError as error:
        raise InputError(
            f"{options[0]}: needs apache-beam; expected the extra 'beam': "
            "pip install 'sepssl[beam]'"
        ) from error
    printed = io.StringIO()  # all options that there are, before what is wrong with one
    try:
        with contextlib.redirect_stderr(printed), input_errors("Apache Beam"):
            parsed = PipelineOptions(list(options))
            runner = create_runner(parsed.view_as(StandardOptions).runner)
            given = parsed.get_all_options(retain_unknown_options=True)
    except SystemExit as error:
        fault = printed.getvalue().rpartition("error: ")[2].strip()
        raise InputError(f"Apache Beam: {fault}; expected options that it takes") from error
    except (ImportError, AttributeError) as error:
        raise InputError(f"{options[0]}: cannot be loaded ({error}); expected a runner") from error
    unknown = given.keys() - parsed.get_all_options().keys()
    if unknown and not isinstance(runner, PortableRunner):
        raise InputError(
            f"--{min(unknown)}: is not an option of Apache Beam; expected options of its pipelines "
            "and of the runner"
        )
    return parsed


def run_on_beam(corpus: Corpus, shards: Sequence[Shard], options: "PipelineOptions") -> None:
    """Makes shards by an Apache Beam pipeline, and waits for its end.

    Its workers need this package, and must see the recordings and the output under the same names.

    Args:
        corpus: what is made.
        shards: those to be made.
        options: of the pipeline.

    Raises:
        InputError: as `process_shard`, with runners that pass it on.
    """
    import apache_beam as beam

    try:
        with beam.Pipeline(options=options) as pipeline:
            made = pipeline | beam.Create(shards) | beam.Reshuffle()
            made | "Make" >> beam.Map(functools.partial(make_shard, corpus))
    except InputError:
        raise
    except Exception as error:  # what a runner raises of its own, and of what its workers raise
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise InputError(
            f"{corpus.output}: the pipeline of Apache Beam failed: {lines[-1][:300]}; the same "
            "command goes on with what is missing"
        ) from error
