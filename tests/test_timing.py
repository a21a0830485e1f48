"""Where the time of a training goes."""

import time

import pytest

from pointcnn_cli.timing import HOST, INPUT, SAVING, STEPS, Clock


def test_a_part_inside_another_is_counted_once():
    clock = Clock()
    started = time.monotonic()
    with clock.measure(HOST):
        time.sleep(0.02)
        with clock.measure(STEPS):
            time.sleep(0.06)
        time.sleep(0.02)
    total = time.monotonic() - started
    assert clock.seconds[STEPS] >= 0.06
    assert clock.seconds[HOST] >= 0.04
    assert sum(clock.seconds.values()) == pytest.approx(total, abs=0.01)


def test_time_outside_all_parts_is_nobodys():
    clock = Clock()
    with clock.measure(SAVING):
        pass
    time.sleep(0.02)
    with clock.measure(SAVING):
        pass
    assert clock.seconds[SAVING] < 0.01


def test_the_largest_part_is_named_as_the_bound():
    clock = Clock()
    clock.seconds |= {STEPS: 1.0, INPUT: 3.0}
    assert clock.describe() == (
        "bounded by input: of 4.0 s of training, waiting for rows 75%, steps of the network 25%, "
        "between steps (reading the metrics, Python) 0%, validation 0%, saving 0%"
    )


def test_a_part_that_fails_is_closed():
    clock = Clock()
    with pytest.raises(ValueError, match="x"), clock.measure(SAVING):
        raise ValueError("x")
    with clock.measure(STEPS):
        time.sleep(0.02)
    assert clock.seconds[SAVING] < 0.01


def test_a_training_without_a_step_says_so():
    assert Clock().describe() == "no step was timed"
