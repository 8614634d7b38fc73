import math

import pytest

from palisade.data.arithmetic import Arithmetic


def test_values_by_hand():
    arithmetic = Arithmetic(size=2000, batch_size=64, epochs=40)
    assert arithmetic.sampling_rate == 0.032
    assert arithmetic.steps_per_epoch == 32  # 31.25 rounded up
    assert arithmetic.steps == 1280
    assert arithmetic.delta == pytest.approx(math.exp(-1.1 * math.log(2000)))
    assert arithmetic.delta < 1 / 2000


def test_a_batch_may_be_everything():
    arithmetic = Arithmetic(size=50, batch_size=50, epochs=1)
    assert (arithmetic.sampling_rate, arithmetic.steps) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 5000}, r"^batch_size=5000 exceeds N=2000; choose at most 2000$"),
        ({"batch_size": 0}, r"^batch_size=0: expected an integer >= 1; choose 1 to 2000$"),
        ({"epochs": 0}, r"^epochs=0 trains nothing; choose at least 1$"),
        ({"size": 0}, r"^N=0 leaves nothing to train on; raise split.pool or membership.share$"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        Arithmetic(**{"size": 2000, "batch_size": 64, "epochs": 1} | settings)
