"""Ctrl-C and SIGTERM become a request; a second Ctrl-C is an exception."""

import os
import signal

import pytest

from jaxtune.training.stop_signals import EXIT_CODES, StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_old_handler_comes_back(number):
    before = signal.getsignal(number)
    with StopSignals() as signals:
        assert signals.received is None
        os.kill(os.getpid(), number)
        assert signals.received == number
    assert signal.getsignal(number) == before
    assert EXIT_CODES[number] != 0


def test_a_second_ctrl_c_ends_at_once():
    with StopSignals():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
