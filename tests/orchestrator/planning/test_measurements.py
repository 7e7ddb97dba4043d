"""Times of finished trials."""

from dataclasses import replace
from pathlib import Path

from orchestrator.planning.measurements import measurement_of_trial
from tests.support.planned_study import resolved


def test_start_is_what_steps_and_validations_leave_of_the_wall_time(file: Path) -> None:
    study, trials = resolved(file)
    training = replace(trials[0].experiment.training, epochs=None, steps=4)
    trial = replace(trials[0], experiment=replace(trials[0].experiment, training=training))
    # An epoch of 3 steps and one of 1 step, of 6 images each, at 2 s and 1 s per step.
    history = [{"images_per_second": 3.0}, {"images_per_second": 6.0, "val/seconds": 5.0}]
    resources = study.config.resources
    measured = measurement_of_trial(trial, resources, "device", history, 112.0)
    assert measured is not None
    assert measured.step == 6 / 4.5  # at the median speed
    assert measured.validation == 5.0
    assert measured.start == 112.0 - 3 * 2.0 - 1 * 1.0 - 5.0
    interrupted = measurement_of_trial(trial, resources, "device", history, None)
    assert interrupted == replace(measured, start=None)
    assert measurement_of_trial(trial, resources, "device", [], 112.0) is None
