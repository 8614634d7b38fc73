import math

import pytest

from palisade.data.schedule import TrainingSchedule


def test_values_by_hand():
    schedule = TrainingSchedule(size=2000, batch_size=64, epochs=40)
    assert schedule.sampling_rate == 0.032
    assert schedule.steps_per_epoch == 32  # 31.25 rounded up
    assert schedule.steps == 1280
    assert schedule.delta == pytest.approx(math.exp(-1.1 * math.log(2000)))
    assert schedule.delta < 1 / 2000


def test_a_batch_may_be_everything():
    schedule = TrainingSchedule(size=50, batch_size=50, epochs=1)
    assert (schedule.sampling_rate, schedule.steps) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 5000}, "^batch_size=5000: expected at most 2000, "),
        ({"batch_size": 0}, "^batch_size=0: expected an integer >= 1; "),
        ({"epochs": 0}, "^epochs=0: expected an integer >= 1; "),
        ({"size": 0}, "^N=0: expected .*; raise split.pool or membership.share$"),
    ],
)
def test_errors(settings, message):
    with pytest.raises(ValueError, match=message):
        TrainingSchedule(**{"size": 2000, "batch_size": 64, "epochs": 1} | settings)
