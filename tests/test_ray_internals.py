"""Check that the private parts of Ray that the project uses exist: a checklist for Ray upgrades.

A new release of Ray may rename or remove them without notice. After an upgrade, run this test, fix
the modules that it names, compare the behavior of each name in `imports()` and `MEMBERS` with the
former release, then update RAY_RELEASE.
"""

import ast
import importlib
from collections import defaultdict
from pathlib import Path

import pytest
import ray

RAY_RELEASE = "2.60"  # the release that all uses were checked against

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "orchestrator").rglob("*.py"))

# Public names are safe: Ray documents them and deprecates them before it removes them.
PUBLIC = {
    "ray",
    "ray.exceptions",
    "ray.job_submission",
    "ray.train",
    "ray.train.torch",
    "ray.tune",
    "ray.tune.schedulers",
    "ray.tune.search",
    "ray.util",
}

# Members that the project overrides or calls without importing them, by their owner.
MEMBERS = {
    "ray._private.services": ("ConsolePopen",),
    "ray._raylet.InnerGcsClient": ("get_cluster_status",),
    "ray.autoscaler._private.aws.node_provider.AWSNodeProvider": (
        *("_create_node", "bootstrap_config"),
    ),
    "ray.train.ScalingConfig": (
        *("_resources_per_worker_not_none", "elasticity_enabled", "max_workers", "min_workers"),
    ),
    "ray.train.torch.TorchTrainer": (
        *("_create_default_callbacks", "_initialize_and_run_controller"),
    ),
    "ray.train.torch.config._TorchBackend": ("on_start",),
    "ray.train.v2._internal.execution.callback.WorkerGroupCallback": ("after_worker_group_start",),
    "ray.train.v2._internal.execution.checkpoint.checkpoint_manager.CheckpointManager": (
        *("_load_state", "_maybe_load_state_from_storage"),
        *("_notify", "_save_state", "_write_state_to_storage"),
        *("best_checkpoint_results", "latest_checkpoint_result", "register_checkpoint"),
    ),
    "ray.train.v2._internal.execution.context": ("get_train_context",),
    "ray.train.v2._internal.execution.context.TrainContext": ("get_storage",),
    "ray.train.v2._internal.execution.controller.TrainController": (
        *("get_result", "get_worker_group", "run"),
    ),
    "ray.train.v2._internal.execution.scaling_policy.FixedScalingPolicy": (
        *("_get_num_workers_for_resource_request", "_maybe_send_resource_request"),
        "make_decision_for_non_running_worker_group",
        "make_decision_for_running_worker_group",
    ),
    "ray.train.v2._internal.execution.preemption.PreemptionWatcher": (
        "get_latest_preemption_info",
    ),
    "ray.train.v2._internal.execution.storage.StorageContext": (
        *("build_checkpoint_path_from_name", "checkpoint_manager_snapshot_path"),
        *("experiment_fs_path", "make_default_checkpoint_dir_name"),
        "persist_current_checkpoint",
    ),
    "ray.train.v2._internal.execution.worker_group.WorkerGroup": ("abort", "get_workers"),
    "ray.tune.experiment.Trial": ("pickled_error_file",),
}


def imports() -> dict[str, set[str]]:
    """Map each name imported from Ray and not in PUBLIC to the modules that import it."""
    users: dict[str, set[str]] = defaultdict(set)
    for file in SOURCES:
        user = file.relative_to(ROOT).as_posix()
        for node in ast.walk(ast.parse(file.read_text())):
            names: list[str] = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name not in PUBLIC]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [
                    f"{node.module}.{alias.name}"
                    for alias in node.names
                    if node.module not in PUBLIC or alias.name.startswith("_")
                ]
            for name in names:
                if name.split(".")[0] == "ray":
                    users[name].add(user)
    return users


def resolve(name: str) -> object:
    """Import a dotted name: a module, or a member of one."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise
        module, _, member = name.rpartition(".")
        return getattr(importlib.import_module(module), member)


def test_installed_release_was_checked() -> None:
    users = sorted(set().union(*imports().values()))
    assert ray.__version__.startswith(f"{RAY_RELEASE}."), (
        f"Ray is {ray.__version__}, but its private parts were checked with {RAY_RELEASE}; check "
        f"{', '.join(users)}"
    )


@pytest.mark.parametrize("name", sorted(imports()))
def test_imported_private_name_exists(name: str) -> None:
    assert resolve(name) is not None, f"used by {', '.join(sorted(imports()[name]))}"


@pytest.mark.parametrize("name", MEMBERS)
def test_overridden_and_called_members_exist(name: str) -> None:
    missing = [member for member in MEMBERS[name] if not hasattr(resolve(name), member)]
    assert not missing


@pytest.mark.parametrize("name", MEMBERS)
def test_every_listed_member_is_used(name: str) -> None:
    text = "\n".join(file.read_text() for file in SOURCES)
    assert all(member in text for member in MEMBERS[name])
