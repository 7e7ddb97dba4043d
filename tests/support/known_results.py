"""Results of a study with given scores, without a tracking store."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.report.bootstrap import Sampling
from orchestrator.report.resampled import ResampledCounts
from orchestrator.report.results import Result
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
