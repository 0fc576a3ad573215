"""Progress of long work: a bar on a terminal and in notebooks, a line now and then elsewhere."""

import sys
import time
import warnings

from tqdm import TqdmWarning

with warnings.catch_warnings():
    # Of a notebook without ipywidgets, where the bar is made of text.
    warnings.simplefilter("ignore", TqdmWarning)
    from tqdm.auto import tqdm
    from tqdm.notebook import tqdm_notebook

LINE_SECONDS = 30.0  # between lines where the output is not a terminal; our choice
FEW_ITEMS = 10  # timed before the time left is shown; our choice


def counted(count: int, unit: str) -> str:
    """A number of items: "1 clip", "2 clips"."""
    return f"{count} {unit}{'s' * (count != 1)}"


class Progress:
    """Shows on stdout how much of some work is done, how fast it goes, and the time left.

    Where stdout is a terminal or a notebook, that is a bar by tqdm; where it is a file or a pipe, a
    plain line about every 30 s and one at the end, without control characters.

    Rate and time left count from the end of the first update: what the first item takes on top of
    the others, such as the compilation of a training step, is left out of them. They are shown
    after `FEW_ITEMS` more. Where these take longer than 30 s, as recordings may that a model is
    compiled for each, they count from then instead. Until the first update only `start` is shown.

        with Progress("decoding", len(clips), "clip", start="decoding 20 clips") as progress:
            for clip in clips:
                ...
                progress.update()

    Args:
        title: what is being done.
        total: number of items, those of an earlier run included.
        unit: what an item is, in the singular.
        done: items that an earlier run has done.
        start: line to print at once; None for none.
        verbose: False shows nothing at all.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str,
        done: int = 0,
        start: str | None = None,
        verbose: bool = True,
    ):
        self.title = title
        self.total = total
        self.unit = unit
        self.verbose = verbose
        self._bar: tqdm | None = None  # of a terminal or notebook, from the first update
        self._interactive = sys.stdout.isatty() or issubclass(tqdm, tqdm_notebook)
        self._done = self._done_before = done
        self._shown = ""
        self._began = self._last_line = time.monotonic()
        self._counted: tuple[int, float] | None = None  # (items, time) that the rate counts from
        self._timed = False  # whether the rate is worth showing
        if start is not None:
            self.note(start)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def update(self, count: int = 1, **shown: float) -> None:
        """Counts items as done.

        Args:
            count: how many more.
            shown: numbers to show beside the progress, until the next ones are given.
        """
        self._done += count
        now = time.monotonic()
        if shown:
            self._shown = ", ".join(f"{name} {value:.4g}" for name, value in shown.items())
        if self._counted is None:
            self._counted = (self._done, now)
        elif not self._timed:
            items, since = self._counted
            self._timed = self._done - items >= FEW_ITEMS
            if not self._timed and now - since >= LINE_SECONDS:
                self._counted, self._timed = (self._done, now), True
        if not self.verbose:
            return
        if self._interactive:
            if self._bar is None:
                self._bar = self._new_bar()
            beside = f"{self._rate_and_time_left(now)}{self._shown and f', {self._shown}'}"
            self._bar.set_postfix_str(beside.removeprefix(", "), refresh=False)
            self._bar.update(self._done - self._bar.n)
        elif now - self._last_line >= LINE_SECONDS and self._done < self.total:
            self._print_line(now, self._rate_and_time_left(now))

    def note(self, message: str) -> None:
        """Prints a line of its own, above the bar if there is one."""
        if not self.verbose:
            return
        if self._bar is None:
            print(message, flush=True)
        else:
            self._bar.write(message, file=sys.stdout)

    def close(self) -> None:
        """Ends the bar's line, or prints the last plain one. Nothing is to be shown after it."""
        if self._bar is not None:
            self._bar.close()
        elif self.verbose and self._done > self._done_before:
            now = time.monotonic()
            self._print_line(now, f" in {tqdm.format_interval(now - self._began)}")
        self.verbose = False

    def _new_bar(self) -> tqdm:
        return tqdm(
            desc=self.title,
            total=self.total,
            initial=self._done,
            file=sys.stdout,
            dynamic_ncols=True,
            bar_format="{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]",
        )

    def _print_line(self, now: float, end: str) -> None:
        self._last_line = now
        shown = self._shown and f", {self._shown}"
        print(
            f"{self.title}: {self._done}/{counted(self.total, self.unit)}{end}{shown}", flush=True
        )

    def _rate_and_time_left(self, now: float) -> str:
        items, since = self._counted or (self._done, now)
        if not self._timed or self._done == items or now == since:
            return ""
        rate = (self._done - items) / (now - since)
        pace = f"{rate:.3g} {self.unit}s/s" if rate >= 1 else f"{1 / rate:.3g} s/{self.unit}"
        return f", {pace}, {tqdm.format_interval((self.total - self._done) / rate)} left"
