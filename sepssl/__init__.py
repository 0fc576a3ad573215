"""Self-supervised audio representations from automatically separated sound scenes."""

from sepssl.version import __version__

__all__ = ["__version__", "load_encoder", "load_separator"]


def load_separator(path):
    """Loads a separator from a `.keras` file: see `sepssl.separation.load_separator`."""
    from sepssl.separation import load_separator as load

    return load(path)


def load_encoder(path):
    """Loads an encoder from a `.keras` file: see `sepssl.representation.load_encoder`."""
    from sepssl.representation import load_encoder as load

    return load(path)
