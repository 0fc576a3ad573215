"""The separator that a configuration describes."""

from ml_collections import ConfigDict

from sepssl.errors import InputError, input_errors
from sepssl.separation.basis import LearnedBasis, STFTBasis
from sepssl.separation.separator import Separator
from sepssl.separation.tdcn import TDCN

BASES = {"learned": LearnedBasis, "stft": STFTBasis}
SEPARATOR_KEYS = ("num_sources", "mixture_consistency", "normalize_input")


def make_separator(config: ConfigDict, sample_rate: int, dtype: str = "float32") -> Separator:
    """The network that `config.separator` describes, with random weights.

    Args:
        config: options of `Separator`, of its basis ("basis" is one of `BASES`) and of `TDCN`, by
            name.
        sample_rate: in Hz, of the waveforms it is made for.
        dtype: Keras's policy for its layers, possibly a mixed one.

    Raises:
        InputError: if a value is invalid.
    """
    options = config.to_dict()
    basis = options.pop("basis")
    if basis not in BASES:
        raise InputError(f"separator.basis={basis!r}: expected one of {', '.join(BASES)}")
    framing = {key: options.pop(key) for key in ("frame_length", "hop")}
    num_coefficients = options.pop("num_coefficients")
    if basis == "learned":  # an STFT has as many as its frames have bins
        framing |= {"num_coefficients": num_coefficients, "dtype": dtype}
    own = {key: options.pop(key) for key in SEPARATOR_KEYS}
    with input_errors("separator"):
        return Separator(
            basis=BASES[basis](**framing),
            tdcn=TDCN(**options, dtype=dtype),
            sample_rate=sample_rate,
            dtype=dtype,
            **own,
        )
