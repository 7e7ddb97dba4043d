"""cluster.yaml before Ray's own schema, AWS provider (on moto's AWS) and autoscaler."""

import copy
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import boto3
import pytest
import yaml
from ray.autoscaler._private.aws.config import bootstrap_aws
from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
from ray.autoscaler._private.command_runner import SSHCommandRunner
from ray.autoscaler._private.util import hash_runtime_conf, prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

from orchestrator.capacity import DRIVER_RESOURCE, plan_gang
from orchestrator.resources import Resources

PROJECT = Path(__file__).parents[2]
REGION = "us-west-2"
BUCKET = "my-bucket"

pytestmark = [
    # botocore and moto on themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.mark.parametrize("name", ["cluster.yaml", "clusters/on-premises.yaml"])
def test_rays_schema(name: str) -> None:
    validate_config(prepare_config(yaml.safe_load((PROJECT / name).read_text())))


def test_machines_as_aws_gets_them(aws: Any, aws_config: dict[str, Any]) -> None:
    config = bootstrap_aws(prepare_config(aws_config))
    provider = AWSNodeProvider(config["provider"], config["cluster_name"])
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
    provider.terminate_nodes(provider.non_terminated_nodes({}))
    states = {
        one["State"]["Name"]
        for reservation in aws.describe_instances()["Reservations"]
        for one in reservation["Instances"]
    }
    assert states == {"terminated"}  # not stopped: a stopped machine's disk costs money


def test_only_ssh_is_reachable_from_outside(aws: Any, aws_config: dict[str, Any]) -> None:
    bootstrap_aws(prepare_config(aws_config))
    groups = aws.describe_security_groups(
        Filters=[{"Name": "group-name", "Values": ["ray-autoscaler-segmentation"]}]
    )["SecurityGroups"]
    open_to_the_world = [
        (rule["FromPort"], rule["ToPort"])
        for group in groups
        for rule in group["IpPermissions"]
        if rule["IpRanges"] or rule["Ipv6Ranges"]
    ]
    assert open_to_the_world == [(22, 22)]
    started = " ".join(aws_config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in started
    assert "RAY_AUTH_MODE=token" in started
    assert "RAY_AUTH_MODE=token" in " ".join(aws_config["worker_start_ray_commands"])
    for node_type in aws_config["available_node_types"].values():
        assert node_type["node_config"]["MetadataOptions"]["HttpTokens"] == "required"
        assert node_type["node_config"]["BlockDeviceMappings"][0]["Ebs"]["Encrypted"]


def test_workers_may_touch_the_bucket_without_the_backups_and_nothing_else(aws: Any) -> None:
    iam = boto3.client("iam", region_name=REGION)
    (made,) = iam.list_policies(Scope="Local")["Policies"]
    policy = iam.get_policy_version(PolicyArn=made["Arn"], VersionId=made["DefaultVersionId"])
    for statement in policy["PolicyVersion"]["Document"]["Statement"]:
        assert all(action.startswith("s3:") for action in statement["Action"])
        assert BUCKET in str(statement["Resource"])
    (own,) = iam.list_role_policies(RoleName="segmentation-worker")["PolicyNames"]
    (refused,) = statements("segmentation-worker", own)
    assert (refused["Effect"], refused["Action"]) == ("Deny", "s3:*")
    assert refused["Resource"].endswith(f":{BUCKET}/tracking/*")


def test_the_head_may_end_only_what_is_the_clusters(aws: Any) -> None:
    found = statements("segmentation-head", "machines")
    free = []
    for statement in found:
        actions = statement["Action"]
        named = actions if isinstance(actions, list) else [actions]
        if statement.get("Resource") == "*" and "Condition" not in statement:
            free += named
        if "ec2:TerminateInstances" in named:
            tag = statement["Condition"]["StringLike"]["ec2:ResourceTag/ray-cluster-name"]
            assert tag == "segmentation*"
    assert sorted(free) == ["ec2:Describe*", "ssm:GetParameters"]
    # Whoever could tag any machine as the cluster's could end it.
    tags = [statement for statement in found if "ec2:CreateTags" in statement["Action"]]
    assert all(statement["Condition"] for statement in tags)


def statements(role: str, policy: str) -> list[dict[str, Any]]:
    """Of a policy that is a role's own."""
    iam = boto3.client("iam", region_name=REGION)
    document = iam.get_role_policy(RoleName=role, PolicyName=policy)["PolicyDocument"]
    found: list[dict[str, Any]] = yaml.safe_load(document)["Statement"]
    return found


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
    gang = plan_gang(Resources(workers=4, cpus_per_worker=8), [head, gpu])
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
    travel = ["models/fenet.py", "pipelines/data.py", "orchestrator/storage.py", "pyproject.toml"]
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
