"""Separates or embeds whole corpora: shard by shard, in several processes or with Apache Beam.

sepssl-corpus separate --manifest=FILE.csv --output=DIR [--format=flac|opus|store|log_mel]
sepssl-corpus embed --manifest=FILE.csv --output=DIR [--separator=small]

A manifest names sound files, or parts of them, in its column path; a folder stands for all sound
files in it. Its rows are cut into shards, and DIR/shards gets a folder for each when it is done,
never a part of one. The same command goes on with what is missing, however it ended before.

With Beam (extra beam): --runner=FlinkRunner --beam_options="--flink_master=HOST:8081 ..."

Example:
  sepssl-corpus separate --manifest=recordings.csv --processes=2 --output=corpus

Results: channels in sound files that DIR/channels.csv lists (flac, opus), in samples that
sepssl-train reads where they lie (store), or in frames as encoders see them (log_mel); of embed, an
index in DIR/index. Recordings that cannot be used are in DIR/failed.csv, with the reasons.

Next:
  sepssl-embed --input=corpus/channels.csv --output=index
  sepssl-train --config=encoder_small --workdir=encoder --config.views.separators=corpus
  sepssl-search --index=corpus/index --query=sound.wav --output=found.html
"""

import os
import shlex
import sys

from absl import flags

from sepssl.cli.checks import require_exists
from sepssl.cli.main import import_quietly
from sepssl.cli.main import run as run_command
from sepssl.cli.recordings import (
    check_chunk,
    check_speed,
    check_windows,
    define_chunk_flag,
    define_reading_flags,
    define_window_flags,
)
from sepssl.errors import InputError
from sepssl.progress import counted
from sepssl.weights import model_file

TENSORFLOW = False  # for the processes that make shards, if they are others
TASKS = ("separate", "embed")
LOCAL = "local"
_USES = {  # flag -> the task that it is about
    "format": "separate",
    "sample_rate": "separate",
    "clip_seconds": "separate",
    "chunk_seconds": "separate",
    "encoder": "embed",
    "window_seconds": "embed",
    "hop_seconds": "embed",
    "pool": "embed",
    "audible_db": "embed",
}
_SHOWN = 10  # failures and notes


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_enum("task", None, TASKS, "The first argument.", required=True, flag_values=values)
    flags.DEFINE_string(
        "manifest",
        None,
        "The recordings: a .csv file with a column path, or a folder of sound files.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_string(
        "output",
        None,
        "Folder of the result, new or begun by the same command.",
        required=True,
        allow_overwrite=False,
        flag_values=values,
    )
    flags.DEFINE_string(
        "separator",
        None,
        "Separator: a .keras file, a name or hf://OWNER/REPOSITORY. By default, separate takes "
        "small, and embed none: with one, channels have rows beside their recordings'.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "encoder",
        "small",
        "embed: encoder; a .keras file, a name or hf://OWNER/REPOSITORY.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "format",
        "flac",
        ["flac", "opus", "store", "log_mel"],
        "separate: sound files without loss, or in a tenth of the space; samples for sepssl-train; "
        "or log-mel frames in float16, for training of your own.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "sample_rate",
        16000,
        "separate --format=store: data.sample_rate of the training.",
        lower_bound=1000,
        upper_bound=384000,
        flag_values=values,
    )
    flags.DEFINE_float(
        "clip_seconds",
        4.0,
        "separate --format=store: data.clip_seconds of the training.",
        flag_values=values,
    )
    define_chunk_flag(values)
    define_window_flags(values)
    define_reading_flags(values, "models")
    flags.DEFINE_integer(
        "shard_size", 64, "Rows of the manifest in a shard.", lower_bound=1, flag_values=values
    )
    flags.DEFINE_integer(
        "processes",
        1,
        "Processes that make shards on this machine, each with models of its own.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_string(
        "runner",
        LOCAL,
        "Who makes the shards: local processes, or a runner of Apache Beam: DirectRunner, "
        "FlinkRunner, SparkRunner, DataflowRunner, ...",
        flag_values=values,
    )
    flags.DEFINE_string("beam_options", "", "More options of Beam's pipeline.", flag_values=values)


def check(values: flags.FlagValues) -> None:
    from sepssl.pipelines.corpus import require_output

    task = values.task
    for name, other in _USES.items():
        if values[name].present and task != other:
            raise InputError(f"--{name}: is for {other}, not for {task}")
    if values.format != "store":
        for name in ("sample_rate", "clip_seconds"):
            if values[name].present:
                raise InputError(f"--{name}: is for --format=store, not for {values.format}")
    else:
        for name in ("chunk_seconds", "truncated", "speed"):
            if values[name].present:
                raise InputError(
                    f"--{name}: is not for --format=store, which is as training has it"
                )
    if not 0.1 <= values.clip_seconds < float("inf"):
        raise InputError(f"--clip_seconds={values.clip_seconds}: expected 0.1 or more")
    check_speed(values)
    check_chunk(values)
    check_windows(values)
    if values.runner == LOCAL and values.beam_options:
        raise InputError("--beam_options: are for a runner of Beam, not for local processes")
    if values.runner != LOCAL:
        if values["processes"].present:
            raise InputError(
                f"--processes: are local ones; {values.runner} has options of its own, for "
                "--beam_options"
            )
        from sepssl.pipelines.corpus_engines import beam_options

        beam_options(_beam_options(values))
    require_exists(values.manifest, "a .csv file, or a folder of sound files")
    require_output(values.output)
    needed = "separator" if task == "separate" else "encoder"
    if values[needed].value == "":
        raise InputError(f"--{needed}=: names no model; expected a name or a .keras file")
    for model, kind in ((_separator(values), "Separator"), (_encoder(values), "Encoder")):
        if model:
            model_file(model, kind)


def _separator(values: flags.FlagValues) -> str:
    default = "small" if values.task == "separate" else ""
    return default if values.separator is None else values.separator


def _encoder(values: flags.FlagValues) -> str:
    return values.encoder if values.task == "embed" else ""


def _beam_options(values: flags.FlagValues) -> list[str]:
    try:
        return [f"--runner={values.runner}", *shlex.split(values.beam_options)]
    except ValueError as error:
        raise InputError(
            f"--beam_options={values.beam_options}: cannot be split ({error}); expected options as "
            "a shell takes them"
        ) from error


def main(values: flags.FlagValues) -> None:
    from sepssl.files import printable
    from sepssl.pipelines.corpus import FAILED, Corpus
    from sepssl.pipelines.corpus_engines import run_corpus
    from sepssl.weights import reference

    options = None
    if values.runner != LOCAL:
        options = _beam_options(values)
        import_quietly("tensorflow")  # a runner in this process does so later
    separator, encoder = _separator(values), _encoder(values)
    corpus = Corpus(
        values.task,
        os.path.abspath(values.manifest),
        os.path.abspath(values.output),
        separator and reference(separator, "Separator"),
        encoder and reference(encoder, "Encoder"),
        values.format,
        values.sample_rate,
        values.clip_seconds,
        values.chunk_seconds or None,
        values.window_seconds,
        values.hop_seconds,
        values.pool,
        values.audible_db,
        values.truncated == "keep",
        values.speed,
        values.shard_size,
    )
    report = run_corpus(corpus, values.processes, options, import_quietly)
    for file in report.changed[:_SHOWN]:
        print(f"{printable(file)}: had changed; its shard was made anew")
    for title, lines in (
        ("notes", report.notes),
        ("failed", [reason for _, _, reason in report.failed]),
    ):
        if lines:
            print(f"{title}: {len(lines)}")
            for line in lines[:_SHOWN]:
                print(f"  {printable(line)}")
    if len(report.failed) > _SHOWN:
        print(f"  and more: {os.path.join(values.output, FAILED)}")
    did = "separated" if values.task == "separate" else "embedded"
    print(
        f"{values.output}: {counted(report.recordings, 'recording')}, {did} {report.done}, failed "
        f"{len(report.failed)}; shards made {report.made}, there already {report.found}"
    )
    print(f"next: {_next(values, report.result)}")


def _next(values: flags.FlagValues, result: str) -> str:
    from sepssl.files import printable

    if values.task == "embed":
        command = ["sepssl-search", f"--index={result}", "--query=SOUND"]
    elif values.format == "store":
        data = {"directory": values.manifest}
        for name in ("clip_seconds", "sample_rate"):
            if values[name].value != values[name].default:
                data[name] = values[name].value
        command = ["sepssl-train", "--config=encoder_small"]
        command += [f"--config.data.{name}={value}" for name, value in data.items()]
        command += [f"--config.views.separators={result}", "--workdir=RUN"]
    elif values.format == "log_mel":
        return f"numpy.load, of the files in {result}"
    else:
        command = ["sepssl-embed", f"--input={result}", "--output=INDEX"]
    return printable(shlex.join(command))


def stopped(_: flags.FlagValues) -> str:
    return "finished outputs are kept"


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
