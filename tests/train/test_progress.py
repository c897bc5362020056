import signal

import pytest

from integrand.train.progress import Interruption


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_acts(number: signal.Signals) -> None:
    def nobody_listens(*given: object) -> None:
        pass

    before = signal.signal(number, nobody_listens)
    try:
        with pytest.raises(KeyboardInterrupt), Interruption() as interruption:
            assert not interruption.asked
            signal.raise_signal(number)
            assert interruption.asked
            signal.raise_signal(number)
        assert signal.getsignal(number) is nobody_listens
    finally:
        signal.signal(number, before)
