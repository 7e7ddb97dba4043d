"""Runs jobs with Ray Tune."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from orchestrator.cluster.nodes import connected_nodes
from orchestrator.scheduling.capacity import driver_resources
from orchestrator.scheduling.policy import GangShape, Node, Waiting
from orchestrator.study.config import EarlyStopping
from orchestrator.training.diagnosis import diagnose
from orchestrator.training.early_stopping import EarlierScores, TableSafeASHA
from orchestrator.training.events import (
    FAILURE,
    NODE,
    OUTCOME,
    EventCallback,
    EventChannel,
    RequestStopper,
    TrialEvents,
)
from orchestrator.training.group import train_group
from orchestrator.training.job import Job
from orchestrator.training.searcher import GangSearcher
from orchestrator.training.single import train_single_worker

# After a study, Tune would warn that it finds no metrics, because their files are turned off.
logging.getLogger("ray.tune.analysis.experiment_analysis").setLevel(logging.ERROR)


def run_jobs(
    jobs: Sequence[Job],
    max_concurrent: int | None,
    events: TrialEvents,
    directory: Path,
    name: str,
    early_stopping: EarlyStopping | None = None,
    earlier: Sequence[EarlierScores] = (),
    run: Callable[[Job], dict[str, Any]] | None = None,
    nodes: Callable[[], Sequence[Node]] | None = None,
) -> None:
    """Run all jobs with Ray Tune, in the order of `scheduling.policy`, and report to `events`.

    Returns when every job has ended, or `events` has stopped the running ones and lets no other
    start. A failing job does not affect the others.

    max_concurrent: maximum number of running jobs; None for as many as fit.
    directory: for Tune's own files.
    name: of Tune's experiment.
    early_stopping: stops trials that score worse than the others. earlier: scores of the study's
        trials, including those of the jobs, from earlier commands.
    run: what a job's Tune function executes, instead of training.
    nodes: returns the cluster's nodes at its full size; None for the connected nodes.
    """
    driver = driver_resources(ray.cluster_resources())
    run = run or _train

    def trainable(config: dict[str, Any]) -> None:
        attempt = config["attempt"]
        may_use_idle = config["last"] or attempt > 0
        job = replace(jobs[config["job"]], may_use_idle=may_use_idle, attempt=attempt)
        tune.report({NODE: ray.get_runtime_context().get_node_id()})
        try:
            outcome = run(job)
            if outcome:  # empty if it was requested to stop
                tune.report({OUTCOME: outcome})
        except Exception as error:
            # Tune's callbacks learn that a trial failed, but not why.
            failure = diagnose(error)
            tune.report({FAILURE: asdict(failure)})
            # Tune takes a StopIteration for a normal end.
            raise RuntimeError(failure.message) from error

    def resources_of(config: Mapping[str, Any]) -> tune.PlacementGroupFactory:
        job = jobs[config["job"]]
        return tune.PlacementGroupFactory([dict(job.resources if job.single_worker else driver)])

    waiting = [
        Waiting(
            job.name,
            GangShape.of(job.workers, job.resources, {} if job.single_worker else driver),
            job.expected_seconds,
            job.priority,
        )
        for job in jobs
    ]
    channel = EventChannel(events)
    searcher = GangSearcher(
        waiting, nodes or connected_nodes, max_concurrent, channel.closed, channel.ending
    )
    callback = EventCallback(jobs, channel, lambda index: searcher.retry(waiting[index]))
    tuner = tune.Tuner(
        tune.with_resources(trainable, resources_of),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=early_stopping and TableSafeASHA(early_stopping, jobs, earlier),
            num_samples=-1,  # `GangSearcher` ends the study
            max_concurrent_trials=len(jobs),  # `GangSearcher` limits them
            reuse_actors=all(may_reuse_process(job, early_stopping) for job in jobs),
        ),
        run_config=tune.RunConfig(
            name=name,
            storage_path=str(directory),
            verbose=0,
            callbacks=[callback],
            stop=RequestStopper(jobs, channel),
            failure_config=tune.FailureConfig(max_failures=0),
        ),
    )
    tuner.fit()
    callback.report_unfinished_retries()


def _train(job: Job) -> dict[str, Any]:
    return train_single_worker(job) if job.single_worker else train_group(job)


def may_reuse_process(job: Job, early_stopping: EarlyStopping | None) -> bool:
    """Whether Tune may keep the process of a job's Tune function for the next trial."""
    if job.single_worker:
        # User code may change the process, for example torch's settings or a module's globals.
        # A new process frees the GPU's memory; only Linux can reset the peak of a process's memory.
        return not job.has_user_code and not job.use_gpu and sys.platform == "linux"
    # A stopped trial must end its process, or the workers would continue.
    return early_stopping is None
