"""Exponents of times against length, and crossing points, from synthetic times."""

import math

import pytest

from attention_lab.benchmarks.fits import crossing, exponent

LENGTHS = (128, 512, 2048)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_of_the_length_is_found(power: float) -> None:
    times = {length: 3e-7 * length**power for length in LENGTHS}
    assert exponent(times) == pytest.approx(power)


def test_the_exponent_of_noisy_times_is_between_those_of_their_parts() -> None:
    times = {128: 1.0, 256: 2.0, 512: 8.0}  # slopes 1 and 2
    assert exponent(times) == pytest.approx(1.5)


def test_one_length_has_no_exponent() -> None:
    assert math.isnan(exponent({128: 1.0}))


def test_two_powers_cross_where_they_are_equal() -> None:
    linear = {length: 1000.0 * length for length in LENGTHS}
    quadratic = {length: float(length**2) for length in LENGTHS}
    assert crossing(linear, quadratic) == pytest.approx(1000)


@pytest.mark.parametrize(
    ("times", "length"),
    [
        ({128: 3.0, 512: 3.0}, None),  # never below
        ({128: 1.0, 512: 3.0}, None),  # below at first only
        ({128: 1.0, 512: 1.0}, 128),  # always below
        ({64: 1.0}, None),  # no length in common
    ],
)
def test_lengths_without_a_crossing(times: dict[int, float], length: int | None) -> None:
    assert crossing(times, {128: 2.0, 512: 2.0}) == length
