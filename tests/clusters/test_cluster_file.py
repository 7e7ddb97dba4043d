"""cluster.yaml, checked with Ray's schema, AWS provider (on moto) and autoscaler."""

import copy
import subprocess
from base64 import b64decode
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from ray.autoscaler._private.command_runner import SSHCommandRunner
from ray.autoscaler._private.providers import _get_node_provider_cls
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config

from tests.support.aws import SSH_FROM

PROJECT = Path(__file__).parents[2]

pytestmark = [
    # botocore and moto use deprecated functions of their own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def test_cluster_file_is_valid_for_ray() -> None:
    validate_config(prepare_config(yaml.safe_load((PROJECT / "cluster.yaml").read_text())))


@pytest.mark.slow
def test_aws_creates_and_terminates_the_configured_machines(
    aws: Any, aws_config: dict[str, Any]
) -> None:
    prepared = prepare_config(aws_config)
    cls = _get_node_provider_cls(prepared["provider"])
    config = cls.bootstrap_config(prepared)
    provider = cls(config["provider"], config["cluster_name"])
    for name, node_type in config["available_node_types"].items():
        tags = {"ray-node-kind": "head" if name == "head" else "worker", "ray-node-name": name}
        provider.create_node(copy.deepcopy(node_type["node_config"]), tags, 1)
    machines = {
        next(tag["Value"] for tag in one["Tags"] if tag["Key"] == "Name"): one
        for reservation in aws.describe_instances()["Reservations"]
        for one in reservation["Instances"]
    }
    assert set(machines) == {"head", "small", "gpu"}
    assert machines["gpu"]["InstanceLifecycle"] == "spot"
    assert machines["small"]["InstanceType"] == "g6.xlarge"
    assert "InstanceLifecycle" not in machines["head"]
    profiles = {name: one["IamInstanceProfile"]["Arn"] for name, one in machines.items()}
    assert profiles["head"].endswith("/segmentation-head")
    assert profiles["gpu"].endswith("/segmentation-worker")
    assert profiles["small"].endswith("/segmentation-worker")

    def attribute(name: str, machine: str) -> str:
        reply = aws.describe_instance_attribute(
            InstanceId=machines[machine]["InstanceId"], Attribute=name
        )
        return str(reply[name[0].upper() + name[1:]]["Value"])

    # Machines power themselves off. One that is only stopped would keep its disk.
    for name in machines:
        assert attribute("instanceInitiatedShutdownBehavior", name) == "terminate"
        assert b64decode(attribute("userData", name)).startswith(b"#!/bin/bash\n")

    provider.terminate_nodes(provider.non_terminated_nodes({}))
    states = {
        one["State"]["Name"]
        for reservation in aws.describe_instances()["Reservations"]
        for one in reservation["Instances"]
    }
    assert states == {"terminated"}  # the disk of a stopped machine would cost money


def test_only_ssh_is_open_and_only_to_the_configured_addresses(
    aws: Any, aws_config: dict[str, Any]
) -> None:
    prepared = prepare_config(aws_config)
    config = _get_node_provider_cls(prepared["provider"]).bootstrap_config(prepared)
    kinds = [kind["node_config"] for kind in config["available_node_types"].values()]
    (group,) = {group for kind in kinds for group in kind["SecurityGroupIds"]}
    (rules,) = aws.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    from_outside, among_machines = [], []
    for rule in rules["IpPermissions"]:
        assert not rule["Ipv6Ranges"]
        for addresses in rule["IpRanges"]:
            from_outside.append((rule["FromPort"], rule["ToPort"], addresses["CidrIp"]))
        for other in rule["UserIdGroupPairs"]:
            among_machines.append((rule["IpProtocol"], other["GroupId"]))
    assert from_outside == [(22, 22, SSH_FROM)]
    assert among_machines == [("-1", group)]

    assert aws_config["auth"]["ssh_proxy_use_node_id"]  # the port is not needed
    started = " ".join(aws_config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in started
    assert "RAY_AUTH_MODE=token" in started
    assert "RAY_USAGE_STATS_ENABLED=0" in started
    assert "RAY_AUTH_MODE=token" in " ".join(aws_config["worker_start_ray_commands"])
    for kind in kinds:
        assert kind["MetadataOptions"]["HttpTokens"] == "required"
        assert kind["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert kind["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]


@pytest.mark.parametrize("script", sorted((PROJECT / "clusters").rglob("*.s[hb]*"), key=str))
def test_script_has_valid_syntax(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


def test_data_and_secrets_are_neither_copied_nor_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, destination = tmp_path / "here", tmp_path / "there"
    excluded = [".git/config", ".venv/bin/python", "storage/mlflow.db", "mlflow.db", ".env"]
    excluded += ["data/streets/manifest.json", ".aws/credentials", "server.key"]
    excluded_within = ["models/__pycache__/fenet.pyc"]
    included = ["models/fenet.py", "pipelines/train.py", "orchestrator/storage.py"]
    included += ["clusters/aws/setup.sh", "constraints.txt", "pyproject.toml"]
    for file in [*excluded, *excluded_within, *included]:
        (source / file).parent.mkdir(parents=True, exist_ok=True)
        (source / file).write_text("content")
    monkeypatch.chdir(source)
    config = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    token = config["file_mounts"].pop("~/.ray/auth_token")
    assert token == "~/.ray/auth_token"

    def hashed() -> str:
        return str(hash_runtime_conf(config["file_mounts"], None, {}, True)[1])

    before = hashed()
    for file in excluded:
        (source / file).write_text("changed")
    assert hashed() == before
    for file in included:
        (source / file).write_text("changed")
        assert hashed() != before
        before = hashed()

    # The same rsync command that Ray's NodeUpdater and SSHCommandRunner use.
    filters = SSHCommandRunner._create_rsync_filter_args(cast(Any, None), config)
    # Ray copies the private key, too: with it, the head sets up GPU machines.
    key = tmp_path / Path(config["auth"]["ssh_private_key"]).name
    key.write_text("key")
    for remote, local in {**config["file_mounts"], "~/ray_bootstrap_key.pem": str(key)}.items():
        target = destination / Path(remote).name
        target.parent.mkdir(parents=True, exist_ok=True)
        slash = "/" if Path(local).is_dir() else ""
        subprocess.run(
            ["rsync", "-az", *filters, f"{local}{slash}", f"{target}{slash}"], check=True
        )
    copied_files = {
        str(path.relative_to(destination)) for path in destination.rglob("*") if path.is_file()
    }
    assert copied_files == {*included, "ray_bootstrap_key.pem"}
