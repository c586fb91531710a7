"""`python -m tests.faults.armed FILE serve --config …`: the service, with a place at which it kills itself by -9.

Its wall clock can be stepped as well.

FILE names the point (see `service.failpoints`); it is read again at every SIGUSR1. An empty file disarms. Without FILE
it is `trap` in the working directory. A file
`clock` beside it holds the seconds that the process's wall clock is off by; it is read again at every SIGUSR2.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from service import failpoints


class Trap:
    """Ends the process at the armed point, on whatever thread passes it, and leaves word that it was this."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._armed = ""
        self.read()

    def read(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Take the point from the file; a missing file disarms."""
        self._armed = self._file.read_text().strip() if self._file.exists() else ""

    def passed(self, name: str) -> None:
        """Called at every failpoint."""
        if name == self._armed:
            self._file.unlink(missing_ok=True)
            os.kill(os.getpid(), signal.SIGKILL)


class Clock:
    """The wall clock of this process's Python: real time and an offset. Monotonic clocks go on, as at a real step."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._offset_ns = 0
        self._time_ns = time.time_ns
        self.read()
        time.time_ns = self.time_ns
        time.time = lambda: self.time_ns() / 1e9

    def read(self, _number: int = 0, _frame: FrameType | None = None) -> None:
        """Take the offset from the file; where the file is missing there is none."""
        self._offset_ns = round(float(self._file.read_text()) * 1e9) if self._file.exists() else 0

    def time_ns(self) -> int:
        """See time.time_ns."""
        return self._time_ns() + self._offset_ns


def main() -> int:
    """The service's own exit code."""
    arguments = sys.argv[1:]
    file = Path("trap") if arguments[0] == "serve" else Path(arguments.pop(0))
    clock = Clock(file.parent / "clock")  # before anybody takes `time.time` to himself
    from service.__main__ import main as serve

    trap = Trap(file)
    signal.signal(signal.SIGUSR1, trap.read)
    signal.signal(signal.SIGUSR2, clock.read)
    failpoints.install(trap.passed)
    return serve(arguments)


if __name__ == "__main__":
    sys.exit(main())
