"""Signals of a training, also on a system that has no SIGCONT."""

import signal

from training.signals import Signals


def test_a_system_without_suspension_trains_all_the_same(monkeypatch):
    monkeypatch.delattr(signal, "SIGCONT", raising=False)
    before = signal.getsignal(signal.SIGTERM)
    with Signals() as signals:
        assert signals.stop is None and not signals.was_suspended()
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop == "SIGTERM"
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert signal.getsignal(signal.SIGTERM) == before
