"""cluster.yaml before Ray's own schema, AWS provider (on moto's AWS) and autoscaler."""

import copy
import subprocess
from base64 import b64decode
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from ray.autoscaler._private.command_runner import SSHCommandRunner
from ray.autoscaler._private.providers import _get_node_provider_cls
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

from orchestrator.scheduling.capacity import DRIVER_RESOURCE, plan_placement
from orchestrator.study.resources import Resources
from tests.support.aws import SSH_FROM

PROJECT = Path(__file__).parents[2]

pytestmark = [
    # botocore and moto on themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/on-premises.yaml"])
def test_rays_schema(name: str) -> None:
    validate_config(prepare_config(yaml.safe_load((PROJECT / name).read_text())))


def test_machines_as_aws_gets_them(aws: Any, aws_config: dict[str, Any]) -> None:
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
    assert set(machines) == {"head", "gpu"}
    assert machines["gpu"]["InstanceLifecycle"] == "spot"
    assert "InstanceLifecycle" not in machines["head"]
    profiles = {name: one["IamInstanceProfile"]["Arn"] for name, one in machines.items()}
    assert profiles["head"].endswith("/segmentation-head")
    assert profiles["gpu"].endswith("/segmentation-worker")

    def attribute(name: str, machine: str) -> str:
        found = aws.describe_instance_attribute(
            InstanceId=machines[machine]["InstanceId"], Attribute=name
        )
        return str(found[name[0].upper() + name[1:]]["Value"])

    # Each ends itself by powering off, and then a machine that is only stopped would keep its disk.
    for name in machines:
        assert attribute("instanceInitiatedShutdownBehavior", name) == "terminate"
    carried = b64decode(attribute("userData", "gpu")).decode()
    assert yaml.safe_load(carried)["runcmd"] == ["systemctl enable --now ends-alone.service"]
    assert carried.startswith("#cloud-config\n")

    provider.terminate_nodes(provider.non_terminated_nodes({}))
    states = {
        one["State"]["Name"]
        for reservation in aws.describe_instances()["Reservations"]
        for one in reservation["Instances"]
    }
    assert states == {"terminated"}  # not stopped: a stopped machine's disk costs money


def test_only_ssh_is_reachable_and_not_from_everywhere(
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

    started = " ".join(aws_config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in started
    assert "RAY_AUTH_MODE=token" in started
    assert "RAY_USAGE_STATS_ENABLED=0" in started
    assert "RAY_AUTH_MODE=token" in " ".join(aws_config["worker_start_ray_commands"])
    for kind in kinds:
        assert kind["MetadataOptions"]["HttpTokens"] == "required"
        assert kind["MetadataOptions"]["HttpPutResponseHopLimit"] == 1
        assert kind["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]


def launched(
    config: dict[str, Any], gangs: list[int], worker: Mapping[str, float]
) -> tuple[dict[str, int], int]:
    """What Ray's autoscaler would start for gangs of so many workers, by node type, and how many
    gangs it calls impossible."""
    autoscaling = AutoscalingConfig(prepare_config(config), skip_content_hash=True)
    requests = [
        GangResourceRequest(requests=[ResourceRequestUtil.make(dict(worker)) for _ in range(size)])
        for size in gangs
    ]
    reply = ResourceDemandScheduler(None).schedule(
        SchedulingRequest(
            node_type_configs=autoscaling.get_node_type_configs(),
            max_num_nodes=autoscaling.get_max_num_worker_nodes(),
            disable_launch_config_check=True,
            gang_resource_requests=requests,
        )
    )
    started = {entry.instance_type: entry.count for entry in reply.to_launch}
    return started, len(reply.infeasible_gang_resource_requests)


WORKER = {"CPU": 8.0, "GPU": 1.0}


def test_pending_gangs_start_as_many_machines_as_they_need(aws_config: dict[str, Any]) -> None:
    assert launched(aws_config, [4, 4], WORKER) == ({"gpu": 2}, 0)
    assert launched(aws_config, [8], WORKER) == ({"gpu": 2}, 0)
    assert launched(aws_config, [2, 2, 2, 2], WORKER) == ({"gpu": 2}, 0)
    assert launched(aws_config, [], WORKER) == ({}, 0)


def test_whole_gangs_and_no_more_than_allowed(aws_config: dict[str, Any]) -> None:
    started, impossible = launched(aws_config, [8] * 6, WORKER)
    assert sum(started.values()) == aws_config["max_workers"] == 8
    assert impossible == 2  # four gangs of two machines run, two wait; none is started by half
    assert launched(aws_config, [40], WORKER) == ({}, 1)


def test_nothing_trains_on_the_head(aws_config: dict[str, Any]) -> None:
    head = aws_config["available_node_types"]["head"]["resources"]
    gpu = aws_config["available_node_types"]["gpu"]["resources"]
    assert head[DRIVER_RESOURCE] > 0
    gang = plan_placement(Resources(workers=4, cpus_per_worker=8), [head, gpu])
    assert gang.device == "cuda"
    assert gang.concurrent == 1


@pytest.mark.parametrize("script", sorted((PROJECT / "clusters").rglob("*.s[hb]*"), key=str))
def test_scripts_parse(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/on-premises.yaml"])
def test_data_and_secrets_neither_travel_nor_are_read(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    stay = [".git/config", ".venv/bin/python", "storage/mlflow.db", "data/streets/manifest.json"]
    stay += ["mlruns/0/meta.yaml", "mlflow.db", ".env", ".aws/credentials", ".netrc", "server.key"]
    within = ["clusters/a.pem", "models/__pycache__/fenet.pyc"]
    travel = ["models/fenet.py", "pipelines/train.py", "orchestrator/storage.py", "pyproject.toml"]
    travel += ["clusters/aws/setup_node.sh", "constraints.txt"]
    for file in [*stay, *within, *travel]:
        (here / file).parent.mkdir(parents=True, exist_ok=True)
        (here / file).write_text("content")
    monkeypatch.chdir(here)
    config = yaml.safe_load((PROJECT / name).read_text())
    token = config["file_mounts"].pop("~/.ray/auth_token")
    assert token == "~/.ray/auth_token"

    def hashed() -> str:
        return str(hash_runtime_conf(config["file_mounts"], None, {}, True)[1])

    before = hashed()
    for file in stay:
        (here / file).write_text("changed")
    assert hashed() == before
    for file in travel:
        (here / file).write_text("changed")
        assert hashed() != before
        before = hashed()

    # As Ray's NodeUpdater and SSHCommandRunner do it.
    filters = SSHCommandRunner._create_rsync_filter_args(cast(Any, None), config)
    for remote, local in config["file_mounts"].items():
        target = there / Path(remote).name
        target.parent.mkdir(parents=True, exist_ok=True)
        slash = "/" if Path(local).is_dir() else ""
        subprocess.run(
            ["rsync", "-az", *filters, f"{local}{slash}", f"{target}{slash}"], check=True
        )
    arrived = {str(path.relative_to(there)) for path in there.rglob("*") if path.is_file()}
    assert arrived == set(travel)
