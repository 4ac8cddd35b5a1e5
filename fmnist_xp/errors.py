"""The errors a user is meant to read: one line each, naming the thing, what was found and what to do."""


class FmnistXpError(Exception):
    """Base of every error this package raises on purpose; the command prints it without a traceback."""


class DataError(FmnistXpError):
    """A data set, an image or a download is missing, damaged or not what it claims to be."""


class DeviceError(FmnistXpError):
    """The device asked for is not there, not usable, or out of memory."""


class RunError(FmnistXpError):
    """A run folder or a saved model is missing, incomplete, damaged or already there."""
