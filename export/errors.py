"""The error of an export."""

from sepssl.errors import InputError


class ExportError(InputError):
    """This encoder cannot be exported, or what was written does not compute what it computes."""
