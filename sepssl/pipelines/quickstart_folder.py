"""Where everything lies in the folder of a quickstart."""

import dataclasses
import pathlib


@dataclasses.dataclass(frozen=True)
class QuickstartFolder:
    """A quickstart's folder. Which of its files there are depends on what was run.

    Attributes:
        root: the folder.
    """

    root: pathlib.Path

    @property
    def page(self) -> pathlib.Path:
        """What to open in a browser."""
        return self.root / "index.html"

    @property
    def map(self) -> pathlib.Path:
        return self.root / "map.html"

    @property
    def recordings(self) -> pathlib.Path:
        """Excerpts of recordings."""
        return self.root / "recordings"

    @property
    def separated(self) -> pathlib.Path:
        """Their channels."""
        return self.root / "separated"

    @property
    def index(self) -> pathlib.Path:
        return self.root / "index"

    @property
    def separator(self) -> pathlib.Path:
        """The run of a separator."""
        return self.root / "separator"

    @property
    def encoder(self) -> pathlib.Path:
        """The run of an encoder or, from scratch, a folder with one for every pairing of views."""
        return self.root / "encoder"

    @property
    def saved_model(self) -> pathlib.Path:
        return self.root / "export" / "saved_model"

    @property
    def tflite(self) -> pathlib.Path:
        return self.root / "export" / "tflite"

    @property
    def metrics(self) -> pathlib.Path:
        return self.root / "metrics.json"

    @property
    def cache(self) -> pathlib.Path:
        """Stores of clips, while the run lasts."""
        return self.root / "cache"
