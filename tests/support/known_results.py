"""Results of a study with given scores, without a tracking store."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.rows.comparisons import Comparisons, compare_rows
from orchestrator.report.rows.results import Result
from orchestrator.report.rows.row import build_rows
from orchestrator.report.statistics.bootstrap import Sampling
from orchestrator.report.statistics.resampled import ResampledCounts
from orchestrator.study.load import load_study
from orchestrator.study.study import Study, Trial
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import TrialRun

# So many that the corrections for few images change no digit that a test compares.
MANY = Sampling("images", 1_000_000, 999_999)


def study_of(**keys: Any) -> Study:
    """Return a study whose variants are compared to `a`. keys: of the study file."""
    base = {"data": {"dataset": "/streets"}}
    return load_study({"study": "known", "compare_to": "a", "base": base, **keys})


def known_counts(
    miou: float,
    deviations: NDArray[np.float64] | None = None,
    sampling: Sampling = MANY,
    predicted_only: bool = False,
) -> ResampledCounts:
    """Return counts of one class with an IoU of `miou` percent.

    deviations: of the score under other images, in points; none by default.
    predicted_only: whether a class without labels is predicted, too.
    """
    replicates = miou + (np.zeros(1000) if deviations is None else deviations)
    iou = [miou / 100, 0.0 if predicted_only else np.nan]
    return ResampledCounts(
        identifiers=("image",),
        groups=(None,),
        classes=("road", "car"),
        iou=np.array(iou),
        labeled=np.array([True, False]),
        image_miou=np.array([miou / 100]),
        resampled=replicates / 100,
        sampling=sampling,
    )


def known_result(
    trial: Trial, miou: float, counts: ResampledCounts | None = None, **run: Any
) -> Result:
    """Return the result of a finished trial. miou: in percent. counts: by default, those of `miou`
    without variation over images. run: fields of its run."""
    fields = {"run_id": trial.name, "identity": trial.name, "code": "code", "data": "data"}
    fields |= {"precision": "fp32", "epoch": 3, "metrics": {"val/miou": miou / 100}, **run}
    finished = TrialRun(study="known", status="FINISHED", **fields)
    counts = known_counts(miou) if counts is None else counts
    return Result(trial, finished, TrialState.FINISHED, miou=miou, counts=counts)


# mIoU in percent by batch, variant and seed; the last trial of b has failed.
GRID_SCORES = {
    8: {"a": [70.0, 70.6, 70.2], "b": [71.5, 71.8, 71.7], "c": [70.4, 70.5, 70.9]},
    16: {"a": [72.0, 71.5, 71.9], "b": [72.0, 71.8], "c": [73.2, 72.6, 73.4]},
}


def known_grid() -> tuple[Study, Comparisons]:
    """Return a study of three variants in two cells, `GRID_SCORES`, and its comparisons: b is
    compared to a, and c to b. The published values are for a batch of 8."""
    variants: dict[str, dict[str, Any]] = {
        name: {"set": {"training": {"epochs": 100 + index}}} for index, name in enumerate("abc")
    }
    variants["a"] |= {"reference": {"miou": 70, "parameters_m": 8.5, "gflops": 0.5}}
    variants["b"] |= {
        "reference": {"miou": 71.5, "source": "T1"},
        "entered": {"miou": 69.5, "source": "server"},
    }
    variants["c"] |= {"compare_to": "b"}
    study = study_of(
        variants=variants,
        grid={"training.batch": [8, 16]},
        seeds=[0, 1, 2],
        published=[{"label": "X", "miou": 73.2, "when": {"training.batch": 8}}],
        report={"published_setting": {"training.batch": 8}},
    )

    def result(trial: Trial) -> Result:
        scores = GRID_SCORES[trial.experiment.training.batch][trial.variant]
        seed = trial.experiment.seed
        if seed >= len(scores):
            return Result(trial, None, TrialState.FAILED)
        metrics = {"val/miou": scores[seed] / 100, "images_per_second": 20.0 + seed}
        metrics |= {"trial/seconds": 900.0 * (1 + seed)}
        found = known_result(trial, scores[seed], metrics=metrics)
        return replace(found, best=scores[seed] + 0.25)

    return study, compare_rows(study, build_rows(study, list(map(result, study.trials))))
