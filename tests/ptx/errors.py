"""What a launch can find wrong."""


class PtxError(Exception):
    """What was found; where, once the machine has added it: kernel, line, instruction, block and thread."""

    def __init__(self, found: str, lane: int | None = None) -> None:
        super().__init__(found)
        self.found, self.lane = found, lane
        self.place: str | None = None

    def locate(self, place: str) -> "PtxError":
        """Put before the message where it was found, unless it says so already."""
        if self.place is None:
            self.place = place
            self.args = (f"{place}: {self.found}",)
        return self


class UnknownInstruction(PtxError):
    """An instruction, or a modifier of one, that the interpreter does not model."""


class OutOfBounds(PtxError):
    """An access outside of every piece of memory, or to one that may not be written."""


class Misaligned(OutOfBounds):
    """An access at an address that is not a multiple of its size."""


class Uninitialised(PtxError):
    """A read of bytes that nothing has written."""


class Race(PtxError):
    """Two threads at one address, one of them writing, in no order."""


class LaunchError(PtxError):
    """A launch that CUDA would refuse, or a kernel that gave up."""


class Divergence(PtxError):
    """Threads that wait for others which never come."""


class Undefined(PtxError):
    """An operation of which the manual leaves the result open."""
