"""Who is asked to stop remembers it; of several processes the first alone says so."""

import os
import signal

import pytest

from drivesim.signals import Stop


@pytest.mark.parametrize("speaks", [True, False])
def test_the_first_signal_is_remembered_and_told_by_who_speaks(speaks: bool, capfd: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Stop("step", signal.SIGUSR1, speaks=speaks) as stop:
        assert not stop.asked
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.asked
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.getsignal(signal.SIGUSR1) == before
    told = "SIGUSR1: stops after this step; a second signal stops at once\n"
    assert capfd.readouterr().err == (told if speaks else "")
