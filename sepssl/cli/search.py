"""Finds the windows of an index that sound most like an example.

sepssl-search --index=DIR --query=FILE [--start=SECONDS --end=SECONDS] [--query_channel=NUMBER]
sepssl-search --index=DIR --query_row=NUMBER|RECORDING@SECONDS

DIR is an index that sepssl-embed has written. Results are a table on the terminal and, with
--output, files: .csv, .selections.txt (Raven), .txt (an Audacity label track), .html (a page with
players and spectrograms) or, without a suffix, a folder of wav clips.

Example:
  sepssl-search --index=index --query=sound.wav --output=found.html

Results: a table on the terminal, and what --output names.

Next:
  sepssl-search --index=index --query_row=recording.wav@12.5 --output=more.html
  sepssl-classify suggest --index=index --output=label.html
"""

import pathlib
import sys

from absl import flags

from sepssl.cli.main import import_quietly
from sepssl.cli.main import run as run_command
from sepssl.errors import InputError

TENSORFLOW = False  # a row of the index is a query without it


def define_flags(values: flags.FlagValues) -> None:
    flags.DEFINE_string("index", None, "Folder of the index.", required=True, flag_values=values)
    flags.DEFINE_string(
        "query", "", "Sound file to search for.", allow_overwrite=False, flag_values=values
    )
    flags.DEFINE_float(
        "start", 0.0, "Where the sound begins in it, in seconds.", 0.0, flag_values=values
    )
    flags.DEFINE_float("end", None, "Where it ends; by default with the file.", flag_values=values)
    flags.DEFINE_enum(
        "truncated",
        "skip",
        ["skip", "keep"],
        "Whether a sound file to search for that ends early is refused, or what there is of it is "
        "used.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "query_row",
        "",
        "Row of the index to search for instead: its number, or RECORDING@SECONDS.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "query_channel",
        0,
        "Channel of the query to search for, from 1; 0: the recording itself.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer("k", 20, "How many windows.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum(
        "rows",
        "both",
        ["mixture", "channels", "both"],
        "Which rows of a window count: the recording's, its channels', or the best of all.",
        flag_values=values,
    )
    flags.DEFINE_boolean(
        "overlapping",
        False,
        "Whether windows that overlap a nearer one of their recording, or the query's, count too.",
        flag_values=values,
    )
    flags.DEFINE_string("encoder", "", "Encoder of the index, if it has moved.", flag_values=values)
    flags.DEFINE_string(
        "separator", "", "Separator of the index, if it has moved.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "output", [], "File or folder for the results; may be repeated.", flag_values=values
    )


def check(values: flags.FlagValues) -> None:
    from sepssl.files import printable

    if bool(values.query) == bool(values.query_row):
        raise InputError("expected one of --query and --query_row")
    if values.query_row and (values.start or values.end is not None):
        raise InputError(
            "--start and --end are for --query; expected --query_row=RECORDING@SECONDS"
        )
    if not 0 <= values.start < float("inf"):
        raise InputError(f"--start={values.start}: expected seconds, 0 or more")
    if values.end is not None and not values.start < values.end < float("inf"):
        raise InputError(f"--end={values.end}: expected seconds, more than --start={values.start}")
    if values.query and not pathlib.Path(values.query).exists():
        raise InputError(f"{printable(values.query)}: does not exist; expected a sound file")
    if not pathlib.Path(values.index).is_dir():
        raise InputError(f"{values.index}: is not a folder; expected an index")
    if values.output:
        from sepssl.pipelines.search import require_results

        require_results(values.output)


def main(values: flags.FlagValues) -> None:
    from sepssl.data.clips import report_truncated
    from sepssl.files import printable, together
    from sepssl.index.search import WindowIndex
    from sepssl.pipelines.search import embed_query, require_results, row_of, write_results
    from sepssl.reports.found import found_table

    index = WindowIndex(values.index)
    if values.query_row:
        query = row_of(index, values.query_row, values.query_channel)
        title = f"Like {printable(query.recording)} at {query.offset + query.start:.2f} s"
        # Its own window, found with a score of 1, tells nothing.
        found = index.search(
            index.vector(query.row), values.k, values.rows, values.overlapping, besides=query
        )
    else:
        title = f"Like {printable(values.query)}"
        encoder = _model(values.encoder or index.models.get("encoder"), "encoder")
        separator = None
        if values.query_channel:
            separator = _model(values.separator or index.models.get("separator"), "separator")
        vector = embed_query(
            index,
            encoder,
            values.query,
            values.start,
            values.end,
            separator,
            values.query_channel,
            values.truncated == "keep",
            warn=lambda line: print(f"warning: {line}"),
        )
        found = index.search(vector, values.k, values.rows, values.overlapping)
        report_truncated(_truncated(values.query) if values.truncated == "keep" else [])
    print(found_table(found))
    require_results(values.output, found)
    skipped: dict[str, None] = {}
    speed = (index.settings or {}).get("speed", 1.0)
    separator = None
    with_sound = any(not path.lower().endswith((".csv", ".txt")) for path in values.output)
    if with_sound and any(window.channel for window in found):
        path = values.separator or index.models.get("separator")
        separator = _model(path, "separator") if path else None
    with together(values.output) as places:
        for place in places:
            skipped |= dict.fromkeys(write_results(place, found, title, separator, speed))
    for output in values.output:
        print(f"written: {output}")
    for reason in skipped:
        print(f"not heard: {reason}")


def _truncated(path: str) -> list[str]:
    from sepssl.audio.files import audio_info
    from sepssl.data.folder import Span, shortfall

    there = shortfall(Span("", pathlib.Path(path)), audio_info(path, allow_truncated=True))
    return [f"{path}: {there}"] if there else []


def _model(path: str | None, kind: str):
    if not path:
        raise InputError(f"the index does not name its {kind}; expected --{kind}=PATH.keras")
    from sepssl.weights import model_file

    model_file(path, kind.capitalize())
    import_quietly("tensorflow")
    import sepssl

    load = {"encoder": sepssl.load_encoder, "separator": sepssl.load_separator}
    return load[kind](path)


def run() -> None:
    run_command(sys.modules[__name__])


if __name__ == "__main__":
    run()
