"""cluster.yaml, a moto AWS account with the resources that it names, and Ray's autoscaler."""

import time
from collections.abc import Iterator
from pathlib import Path
from queue import Queue
from typing import Any

import boto3
import pytest
import yaml
from cfnlint.decode.cfn_yaml import loads
from moto import mock_aws
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler.tags import (
    STATUS_UPDATE_FAILED,
    TAG_RAY_NODE_KIND,
    TAG_RAY_NODE_STATUS,
    TAG_RAY_USER_NODE_TYPE,
)
from ray.autoscaler.v2.instance_manager.config import FileConfigReader
from ray.autoscaler.v2.instance_manager.instance_manager import InstanceManager
from ray.autoscaler.v2.instance_manager.instance_storage import InstanceStorage
from ray.autoscaler.v2.instance_manager.node_provider import NodeProviderAdapter
from ray.autoscaler.v2.instance_manager.ray_installer import RayInstaller
from ray.autoscaler.v2.instance_manager.reconciler import Reconciler
from ray.autoscaler.v2.instance_manager.storage import InMemoryStorage
from ray.autoscaler.v2.instance_manager.subscribers.cloud_instance_updater import (
    CloudInstanceUpdater,
)
from ray.autoscaler.v2.instance_manager.subscribers.cloud_resource_monitor import (
    CloudResourceMonitor,
)
from ray.autoscaler.v2.instance_manager.subscribers.threaded_ray_installer import (
    ThreadedRayInstaller,
)
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import (
    ClusterResourceState,
    GangResourceRequest,
    NodeState,
    NodeStatus,
)
from ray.core.generated.instance_manager_pb2 import Instance

from tests.support import ROOT

REGION = "us-west-2"
BUCKET = "my-bucket"
SSH_FROM = "198.51.100.0/24"
WORKER = {"CPU": 8.0, "GPU": 1.0}


@pytest.fixture
def aws_config(tmp_path: Path) -> dict[str, Any]:
    """Return the content of cluster.yaml with machines of four GPUs instead of one, and with the
    path of an existing private key."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "cluster.yaml").read_text())
    use_large_machines(config)
    key = tmp_path / "key.pem"
    key.write_text("a private key")
    config["auth"]["ssh_private_key"] = str(key)
    return config


def use_large_machines(config: dict[str, Any]) -> None:
    """Exchange the two `max_workers`, as cluster.yaml describes."""
    small, gpu = (config["available_node_types"][name] for name in ("small", "gpu"))
    small["max_workers"], gpu["max_workers"] = gpu["max_workers"], small["max_workers"]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Yield the EC2 client of an account with the key pair, rules and roles of cluster.yaml."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    monkeypatch.setattr(node_provider, "TAG_BATCH_DELAY", 0.01)  # seconds before each update
    with mock_aws():
        template = (ROOT / "clusters/aws/permissions.yaml").read_text()
        # moto treats the default value of a list parameter as a single string.
        machines = loads(template)["Parameters"]["Machines"]["Default"]
        boto3.client("cloudformation", region_name=REGION).create_stack(
            StackName="segmentation",
            TemplateBody=template,
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[
                {"ParameterKey": "Bucket", "ParameterValue": BUCKET},
                {"ParameterKey": "SshFrom", "ParameterValue": SSH_FROM},
                {"ParameterKey": "Machines", "ParameterValue": machines},
            ],
        )
        ec2 = boto3.client("ec2", region_name=REGION)
        ec2.create_key_pair(KeyName="segmentation")
        yield ec2


def start_head(config: dict[str, Any], provider: Any) -> str:
    """Start the machine of the head node and return its ID."""
    node_config = config["available_node_types"]["head"]["node_config"]
    tags = {TAG_RAY_NODE_KIND: "head", TAG_RAY_USER_NODE_TYPE: "head"}
    (head,) = provider.create_node(node_config, tags, 1)
    return str(head)


class FailingSetup(RayInstaller):
    """Ray's set-up of machines, with commands that fail."""

    def install_ray(self, instance: Instance, head_node_ip: str) -> None:
        """Mark the set-up as failed, as Ray's updater does."""
        tags = {TAG_RAY_NODE_STATUS: STATUS_UPDATE_FAILED}
        self._provider.set_node_tags(instance.cloud_instance_id, tags)
        raise RuntimeError("a command of the set-up failed")


def autoscale(
    config: dict[str, Any],
    provider: Any,
    head: str,
    directory: Path,
    rounds: int,
    setup_fails: bool = False,
) -> None:
    """Run Ray's autoscaler on the running head node with two pending gangs of four workers."""
    file = directory / "config.yaml"
    file.write_text(yaml.safe_dump(config))
    reader = FileConfigReader(str(file))
    cloud = NodeProviderAdapter(provider, reader)
    monitor = CloudResourceMonitor()
    storage = InstanceStorage(cluster_id="test", storage=InMemoryStorage())
    subscribers: list[Any] = [CloudInstanceUpdater(cloud), monitor]
    setup_errors: Queue[Any] = Queue()
    if setup_fails:
        setup = FailingSetup(provider, reader.get_cached_autoscaling_config())
        subscribers.append(ThreadedRayInstaller("10.0.0.5", storage, setup, setup_errors, 1, 0))
    manager = InstanceManager(storage, subscribers)
    state = ClusterResourceState(
        node_states=[
            NodeState(
                node_id=b"head",
                instance_id=head,
                ray_node_type_name="head",
                status=NodeStatus.RUNNING,
                total_resources={"node:__internal_head__": 1.0},
            )
        ],
        pending_gang_resource_requests=[
            GangResourceRequest(requests=[ResourceRequestUtil.make(WORKER)] * 4) for _ in range(2)
        ],
    )
    for _ in range(rounds):
        Reconciler.reconcile(
            instance_manager=manager,
            scheduler=ResourceDemandScheduler(None),
            cloud_provider=cloud,
            cloud_resource_monitor=monitor,
            ray_cluster_resource_state=state,
            non_terminated_cloud_instances=cloud.get_non_terminated(),
            cloud_provider_errors=cloud.poll_errors(),
            ray_install_errors=[setup_errors.get() for _ in range(setup_errors.qsize())],
            autoscaling_config=reader.get_cached_autoscaling_config(),
        )
        time.sleep(0.5)  # the adapter calls the provider in its own threads
