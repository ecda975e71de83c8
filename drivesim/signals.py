"""Being asked to stop: by a scheduler that needs the machine (SIGTERM, SIGUSR1), or by Ctrl-C."""

import os
import signal
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any


class Stop:
    """The first signal is remembered until the work has come to a good place; the second raises KeyboardInterrupt.

    ::

        with Stop("window", signal.SIGTERM, signal.SIGUSR1) as stop:
            for window in windows:
                ...
                if stop.asked:
                    raise Interrupted(...)

    What handled the signals before does so again afterwards. A signal that the process was started to ignore stays
    ignored. Outside of the main thread, which alone may handle signals, nothing is heard.

    Args:
        until: what is finished first, for the line that is printed at once.
        speaks: whether it is printed; of several processes at one job the first speaks.
    """

    def __init__(self, until: str, *signals: signal.Signals, speaks: bool = True):
        self.until, self.signals, self.speaks, self.asked = until, signals, speaks, False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Stop":
        self.listen()
        return self

    def listen(self) -> None:
        """Handles the signals, again where another has come to handle them within the block."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self.signals:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before = signal.signal(number, self._hear)
                self._before.setdefault(number, before)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if not self.speaks:
            return
        text = f"{signal.Signals(number).name}: stops after this {self.until}; a second signal stops at once\n"
        with suppress(OSError):
            os.write(2, text.encode())  # print may be what the signal has come into

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before.clear()
