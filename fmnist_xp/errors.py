"""The errors meant for users: one line each, naming the thing, what was found and what to do."""

LONGEST = 2000
"""Most characters of a message, which may quote a name or another library."""


def printable(text: str) -> str:
    """Return `text` with unprintable characters, except newlines, escaped as Python does, such as ``\\x1b``."""
    return "".join(sign if sign.isprintable() or sign == "\n" else repr(sign)[1:-1] for sign in text)


def one_line(text: str) -> str:
    """Return `text` as one printable line, whatever a name or another library put into it.

    If it is longer than `LONGEST` characters, only the beginning and the end are kept.
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
    """The requested device is missing, unusable, or out of memory."""


class EngineError(FmnistXpError, ValueError):
    """The fused engine does not take a training in a precision that no other has."""


class RunError(FmnistXpError):
    """A run folder or a saved model is missing, incomplete or damaged, or already exists."""


class RankError(FmnistXpError):
    """MPI cannot be used."""


class ElsewhereError(RankError):
    """Another process of the same training has failed, with this message; all of them end.

    With `exit_code` there ends the command, and so it does here: launchers make one code of those of all processes.
    """

    exit_code = 1
