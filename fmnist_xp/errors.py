"""The errors a user is meant to read: one line each, naming the thing, what was found and what to do."""

LONGEST = 2000
"""Characters of a message, which may quote a name or another library."""


def printable(text: str) -> str:
    """Return `text` with all that is neither seen nor ends a line as Python writes it, such as ``\\x1b``."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def one_line(text: str) -> str:
    """Return `text`, whatever a name or another library has brought into it, as one line that can be printed.

    Of more than `LONGEST` characters the beginning and the end are kept.
    """
    text = printable(text).replace("\n", " ")
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} … {text[-LONGEST // 2 :]}"


class FmnistXpError(Exception):
    """Base of every error this package raises on purpose; the command prints it without a traceback."""

    def __str__(self) -> str:
        """Return the message as `one_line`."""
        return one_line(super().__str__())


class DataError(FmnistXpError):
    """A data set, an image or a download is missing, damaged or not what it claims to be."""


class DeviceError(FmnistXpError):
    """The device asked for is not there, not usable, or out of memory."""


class RunError(FmnistXpError):
    """A run folder or a saved model is missing, incomplete, damaged or already there."""
