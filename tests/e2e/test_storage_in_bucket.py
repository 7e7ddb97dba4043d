"""Storage in a bucket of a local S3 server."""

from collections.abc import Iterator
from pathlib import Path

import pyarrow.fs
import pytest
import torch

from orchestrator.planning.lost_checkpoints import lost_checkpoints
from orchestrator.planning.reconcile import Decision
from orchestrator.storage import Storage, local_copy
from orchestrator.study.identity import training_name
from orchestrator.study.trial_state import TrialState
from orchestrator.tracking.runs import TrialRun
from orchestrator.training.checkpoints import TrialCheckpoints
from orchestrator.training.worker import SCORE
from pipelines.data.storage import locate
from pipelines.network.checkpoint import take_snapshot
from tests.support.jobs import cpu_job


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Yield the URI of an empty bucket."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = f"endpoint_override={host}:{port}&scheme=http&allow_bucket_creation=true"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "testing")
        uri = f"s3://results/?{options}&region=us-east-1"
        filesystem, _ = pyarrow.fs.FileSystem.from_uri(uri)
        filesystem.create_dir("results")
        yield uri
    server.stop()


def test_stored_files_can_be_read_and_copied_back(bucket: str, tmp_path: Path) -> None:
    storage = Storage.parse(bucket)
    (tmp_path / "file").write_bytes(b"weights")
    uri = storage.put(tmp_path / "file", "initial/digest.safetensors")
    assert not (tmp_path / "file").exists()
    assert locate(storage.at("initial")).read("digest.safetensors") == b"weights"
    assert uri == storage.at("initial/digest.safetensors")
    with local_copy(storage.at("initial")) as directory:
        assert (directory / "digest.safetensors").read_bytes() == b"weights"
    assert not directory.exists()


def test_local_copy_contains_only_the_requested_files(bucket: str) -> None:
    storage = Storage.parse(bucket)
    location = locate(storage.at("checkpoint"))
    for name in ("state.json", "optimizer", "results/counts"):
        location.write(name, name.encode())
    with local_copy(storage.at("checkpoint"), only=["state.json", "results"]) as directory:
        names = {file.name for file in directory.rglob("*") if file.is_file()}
        assert names == {"state.json", "counts"}
        assert (directory / "results" / "counts").read_bytes() == b"results/counts"
    with (
        pytest.raises(OSError, match="nothing"),
        local_copy(storage.at("checkpoint"), only=["nothing"]),
    ):
        raise AssertionError("it is not there")


# From Ray's own classes.
@pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20")
@pytest.mark.parametrize("damaged", ["model.safetensors", "checkpoint_manager_snapshot.json"])
def test_damage_to_checkpoints_in_a_bucket_is_found(
    bucket: str, tmp_path: Path, damaged: str
) -> None:
    run = TrialRun(Path(damaged).stem, "study", "0" * 20, "KILLED", "code", 2, {})
    name, storage = training_name(run.identity, run.run_id), Storage.parse(bucket)
    job = cpu_job(run_name=name, keep_checkpoints=2, storage=storage.trials)
    decisions = {"strong": Decision(TrialState.INTERRUPTED, "resume", run)}
    assert lost_checkpoints(decisions, storage.trials) == {"strong": 2}
    assert TrialCheckpoints(job).last() is None
    model = torch.nn.Linear(2, 2)
    for epoch in (1, 2):
        state = {"position": {"epoch": epoch, "step": 0}, "history": [{"val/miou": epoch / 10}]}
        snapshot = take_snapshot(model, torch.optim.SGD(model.parameters(), lr=0.1), state)
        snapshot.write(tmp_path / str(epoch))
        TrialCheckpoints(job).add(tmp_path / str(epoch), {SCORE: epoch / 10})
    assert lost_checkpoints(decisions, storage.trials) == {}
    reader = TrialCheckpoints(job)
    last = reader.last()
    assert last is not None
    assert not reader.notice
    location = locate(storage.trials)
    in_list = damaged.endswith(".json")
    path = f"{location.path}/{name}/{damaged}" if in_list else f"{last.path}/{damaged}"
    with location.filesystem.open_output_stream(path):
        pass  # an empty file
    reader = TrialCheckpoints(job)
    assert "continues from checkpoint_" in reader.notice
    assert f", after epoch {2 if in_list else 1}" in reader.notice
