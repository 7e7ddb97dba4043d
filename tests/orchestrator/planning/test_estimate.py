"""Estimated times against devices with a known cost model."""

import math
import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.planning.estimate import (
    Calibration,
    Measurement,
    Workload,
)

SMALL = Workload(
    gflops=1.0,
    megapixels=0.016,
    parameters_m=5.0,
    batch=8,
    micro_batches=1,
    workers=1,
    evaluated_images=10,
    evaluated_megapixels=0.3,
)


def true_step(workload: Workload) -> float:
    """Return the step time of a device: 10 ms, plus 20 ms per giga multiply-add and 500 ms per
    megapixel of each image."""
    images = workload.batch / workload.workers
    return 0.01 + images * (0.02 * workload.gflops + 0.5 * workload.megapixels)


def measurement(workload: Workload, error: float = 1.0, **changes: object) -> Measurement:
    step = true_step(workload) * error
    return replace(Measurement(workload, "device", "fp32", "trial", step), **changes)  # type: ignore[arg-type]


def calibrate(*measurements: Measurement) -> Calibration:
    return Calibration.of(measurements, "cpu", "device", "fp32")


def sample_workloads() -> list[Workload]:
    return [
        replace(SMALL, gflops=gflops, megapixels=megapixels, batch=batch)
        for gflops in (0.5, 2.0, 8.0)
        for megapixels in (0.016, 0.07)
        for batch in (4, 16)
    ]


def test_fit_recovers_the_cost_model_of_a_device() -> None:
    calibration = calibrate(*map(measurement, sample_workloads()))
    for gflops, batch in ((1.0, 8), (4.0, 12), (12.0, 16)):
        new = replace(SMALL, gflops=gflops, megapixels=0.04, batch=batch)
        assert calibration.step(new) == pytest.approx(true_step(new), rel=0.1)


def test_one_measurement_scales_the_default_model() -> None:
    twice_as_large = replace(SMALL, gflops=2.0, megapixels=0.032)
    calibration = calibrate(measurement(SMALL))
    assert calibration.step(SMALL) == true_step(SMALL)
    assert 1.3 < calibration.step(twice_as_large) / calibration.step(SMALL) < 2.2


def test_a_tiny_training_says_little_about_a_large_one() -> None:
    """Its step is mostly overhead, which must not be taken for slow arithmetic."""
    tiny = replace(SMALL, gflops=0.019, megapixels=0.0041, batch=4)
    large = replace(SMALL, gflops=3.0, megapixels=0.13, batch=8)

    def seconds(load: Workload) -> float:
        return 0.2 + load.batch * (0.05 * load.gflops + 0.2 * load.megapixels)

    calibration = calibrate(measurement(tiny, step=seconds(tiny)))
    estimate = calibration.training(large, 1000, 0)
    assert estimate.low < 1000 * seconds(large) < estimate.high
    assert 0.3 < calibration.step(large) / seconds(large) < 3
    assert calibration.spread(large) > 0.7 > 0.2 > calibration.spread(tiny)
    # A step of the large one settles it.
    both = calibrate(*(measurement(load, step=seconds(load)) for load in (tiny, large)))
    larger = replace(large, gflops=6.0)
    assert both.step(larger) == pytest.approx(seconds(larger), rel=0.25)
    assert both.spread(larger) < 0.5


def test_tiny_trainings_that_agree_say_no_more_about_large_ones() -> None:
    tiny = [
        replace(SMALL, gflops=0.05 * part, megapixels=0.004 * part, batch=batch)
        for part in (1, 2)
        for batch in (2, 4, 8, 16)
    ]
    large = replace(SMALL, gflops=50.0, megapixels=0.5)

    def seconds(load: Workload) -> float:
        return 0.2 + load.batch * (0.03 * load.gflops + 0.1 * load.megapixels)

    calibration = calibrate(*(measurement(load, step=seconds(load)) for load in tiny))
    estimate = calibration.training(large, 1000, 0)
    assert estimate.low < 1000 * seconds(large) < estimate.high
    assert calibration.spread(large) > 0.6
    assert calibration.spread(tiny[0]) == pytest.approx(0.15)  # as a repetition scatters


def test_measured_workload_keeps_its_own_time() -> None:
    outlier = replace(SMALL, gflops=3.0)
    calibration = calibrate(*map(measurement, sample_workloads()), measurement(outlier, error=3.0))
    assert calibration.step(outlier) == 3.0 * true_step(outlier)
    # Repeated measurements of one workload: the median.
    repeated = [measurement(SMALL, error=e) for e in (1.0, 1.1, 9.0)]
    assert calibrate(*repeated).step(SMALL) == pytest.approx(1.1 * true_step(SMALL))


def test_other_devices_and_precisions_are_ignored() -> None:
    others = [
        measurement(SMALL, error=50.0, device="another"),
        measurement(SMALL, error=50.0, precision="bf16"),
    ]
    assert not calibrate(*others).measured
    assert calibrate(*others, measurement(SMALL)).step(SMALL) == true_step(SMALL)


def test_finished_trials_take_precedence_over_preflight() -> None:
    calibration = calibrate(measurement(SMALL, error=9.0, source="preflight"), measurement(SMALL))
    assert calibration.step(SMALL) == true_step(SMALL)
    assert calibration.spread(SMALL) < calibrate(measurement(SMALL, source="probe")).spread(SMALL)


def test_preflight_runs_count_beside_trials_of_other_networks() -> None:
    other = replace(SMALL, gflops=9.0)
    calibration = calibrate(measurement(SMALL), measurement(other, error=2.0, source="preflight"))
    assert calibration.step(other) == 2.0 * true_step(other)


def test_training_time_adds_start_steps_and_validations() -> None:
    calibration = calibrate(measurement(SMALL, validation=2.0, start=15.0))
    estimate = calibration.training(SMALL, steps=100, validations=3)
    assert estimate.value == pytest.approx(15.0 + 100 * true_step(SMALL) + 3 * 2.0)
    assert estimate.low < estimate.value < estimate.high


def test_validation_time_is_proportional_to_the_pixels() -> None:
    calibration = calibrate(measurement(SMALL, validation=2.0))
    larger = replace(SMALL, evaluated_megapixels=0.9)
    assert calibration.validation(larger) == pytest.approx(6.0, rel=1e-6)
    assert calibration.validation(replace(larger, workers=2)) == pytest.approx(3.0, rel=1e-6)


def test_interval_covers_most_trials_and_widens_with_less_data() -> None:
    random_numbers = random.Random(0)
    noisy = [
        measurement(workload, error=math.exp(random_numbers.gauss(0, 0.3)))
        for workload in sample_workloads()
    ]
    calibration = calibrate(*noisy)
    inside = 0
    for _ in range(300):
        new = replace(SMALL, gflops=random_numbers.uniform(0.5, 8), batch=8, megapixels=0.05)
        actual = 1000 * true_step(new) * math.exp(random_numbers.gauss(0, 0.3))
        estimate = calibration.training(new, 1000, 0)
        inside += estimate.low <= actual + calibration.start <= estimate.high
    assert 0.7 < inside / 300 < 0.97
    new = replace(SMALL, gflops=3.0)
    exact = calibrate(*map(measurement, sample_workloads()))
    assert calibrate().spread(new) > calibration.spread(new) > exact.spread(new)


@settings(max_examples=40)
@given(
    errors=st.lists(st.floats(0.2, 5.0), min_size=1, max_size=8),
    gflops=st.floats(0.01, 1000.0),
    batch=st.integers(1, 64),
)
def test_estimates_are_always_positive_and_finite(
    errors: list[float], gflops: float, batch: int
) -> None:
    workloads = sample_workloads()
    calibration = calibrate(*(measurement(w, e) for w, e in zip(workloads, errors, strict=False)))
    estimate = calibration.training(replace(SMALL, gflops=gflops, batch=batch), 10, 1)
    assert 0 < estimate.low <= estimate.value <= estimate.high < math.inf


def test_measurement_json_round_trip_and_invalid_json() -> None:
    whole = measurement(SMALL, validation=2.0, start=15.0)
    assert Measurement.from_json(whole.to_json()) == whole
    quick = replace(whole, source="preflight")
    assert Measurement.from_json(quick.to_json()) == quick
    others = [whole.to_json().replace("gflops", "tflops"), quick.to_json().replace("pref", "f")]
    for text in ("", "{", "[]", '{"device": "a"}', *others):
        assert Measurement.from_json(text) is None


@pytest.mark.parametrize("seconds", [(0.10, 0.08), (0.10, 0.10), (1.0, 0.01)])
def test_size_is_never_free_even_if_a_larger_network_was_not_slower(
    seconds: tuple[float, float],
) -> None:
    larger = replace(SMALL, gflops=19.0, megapixels=0.52)
    measured = [
        replace(measurement(workload), step=step, validation=0.5)
        for workload, step in zip((SMALL, larger), seconds, strict=True)
    ]
    calibration = calibrate(*measured)
    assert (calibration.coefficients.values > 0).all()
    assert math.isfinite(calibration.evaluation_factor)
    assert calibration.validation(replace(SMALL, gflops=2.0)) > 0


def test_accumulation_adds_a_forward_pass_and_workers_share_the_images() -> None:
    heavy = replace(SMALL, gflops=1e4)  # nothing but its multiply-adds counts
    rules = calibrate()
    assert rules.step(replace(heavy, micro_batches=2)) / rules.step(heavy) == pytest.approx(
        4 / 3, rel=1e-3
    )
    assert rules.step(replace(heavy, workers=2)) / rules.step(heavy) == pytest.approx(0.5, rel=1e-3)


def test_gradients_are_exchanged_between_workers_only() -> None:
    large = replace(SMALL, parameters_m=1e6)
    assert calibrate().step(replace(large, workers=2)) > 1000
    assert calibrate().step(large) == calibrate().step(SMALL)


def test_start_of_preflight_runs_is_used_until_a_trial_has_one() -> None:
    quick = measurement(SMALL, source="preflight", start=40.0)
    assert calibrate(quick, measurement(SMALL)).training(SMALL, 0, 0).value == 40.0
