"""The error of an export."""

from sepssl.errors import InputError


class ExportError(InputError):
    """This model cannot be exported, or what was written does not compute what it computes."""
