"""The options of a run of a study."""

from orchestrator.sweep.__main__ import parser
from orchestrator.sweep.options import SweepOptions


def test_job_gets_all_options_except_storage_and_address() -> None:
    overrides = [("training.epochs", "2"), ("description", "a b")]
    options = SweepOptions(overrides, ["-x*"], "s3://b/x", "http://h", True, True, True, False)
    read = parser().parse_args(["study.yaml", *options.job_arguments])
    assert read.set == ["training.epochs=2", "description=a b"]
    assert read.only == ["-x*"]
    assert (read.plan, read.retry_failed, read.retrain_stale, read.no_preflight) == (True,) * 4
    assert SweepOptions().job_arguments == []
