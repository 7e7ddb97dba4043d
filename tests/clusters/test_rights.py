"""clusters/aws/permissions.yaml allows people, the head node and GPU machines every AWS call that
Ray's commands and autoscaler make for cluster.yaml, and no other call."""

import re
import tempfile
from pathlib import Path
from typing import Any

import boto3
import cfnlint.api
import pytest
import yaml
from botocore.exceptions import ClientError
from cfnlint.decode.cfn_yaml import load
from ray.autoscaler._private import commands
from ray.autoscaler._private.command_runner import SSHCommandRunner
from ray.autoscaler._private.providers import _get_node_provider, _get_node_provider_cls
from ray.autoscaler._private.util import prepare_config
from ray.autoscaler.tags import NODE_KIND_WORKER, TAG_RAY_NODE_KIND

from tests.support.aws import BUCKET, autoscale, start_head
from tests.support.rights import TEMPLATE, Request, Rights, acting_under, rights_of

pytestmark = [
    # botocore and moto use deprecated functions of their own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

PEOPLE, HEAD, WORKER = "segmentation", "segmentation-head", "segmentation-worker"
# Actions that docs/aws.md tells people to take in addition to Ray's commands.
BY_HAND = {"ec2:CreateKeyPair", "ssm:StartSession", "ssmmessages:OpenDataChannel"}
BY_HAND |= {"cloudformation:DescribeStacks", "iam:GetRole", "servicequotas:GetServiceQuota"}
# Actions of the head's agent of Session Manager.
AGENT = {"ssm:UpdateInstanceInformation", "ssmmessages:*"}


@pytest.mark.slow
def test_template_is_valid_for_cloudformation() -> None:
    errors = cfnlint.api.lint_file(TEMPLATE)
    assert not errors, "\n".join(map(str, errors))


def test_documented_command_sets_all_required_parameters() -> None:
    document = (TEMPLATE.parents[2] / "docs/aws.md").read_text()
    parameters = load(str(TEMPLATE))["Parameters"]
    required = {name for name, parameter in parameters.items() if "Default" not in parameter}
    (command,) = re.findall(r"aws cloudformation deploy(?:.*\\\n)+.*", document)
    assert required == set(re.findall(r"\b(\w+)=", command))
    for name in parameters:
        assert re.search(rf"^\|.*`{name}[`=]", document, re.MULTILINE), name


@pytest.mark.slow
def test_people_may_start_and_stop_a_cluster(
    aws: Any,
    aws_config: dict[str, Any],
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # SSH commands always succeed, and Ray polls the machines at a short interval.
    monkeypatch.setattr(SSHCommandRunner, "run", lambda *_, **__: "")
    monkeypatch.setattr(SSHCommandRunner, "run_rsync_up", lambda *_, **__: None)
    monkeypatch.setattr(commands, "POLL_INTERVAL", 0.1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # Ray's cache folder
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump({**aws_config, "file_mounts": {}}))
    rights, heads = rights_of(PEOPLE), rights_of(HEAD)
    with acting_under(rights) as (called, refused):
        commands.create_or_update_cluster(
            str(file), None, None, False, False, True, None, no_config_cache=True
        )
        assert states(aws) == ["running"]
        commands.teardown_cluster(str(file), True, False, None, False)
        assert states(aws) == ["terminated"]
        # GPU machines without a head node.
        with acting_under(heads):
            provider = _get_node_provider(config["provider"], config["cluster_name"])
            gpu = config["available_node_types"]["gpu"]["node_config"]
            provider.create_node(gpu, {TAG_RAY_NODE_KIND: NODE_KIND_WORKER}, 2)
        commands.teardown_cluster(str(file), True, False, None, False)
    assert not refused
    assert set(states(aws)) == {"terminated"}
    assert machines_actions(rights) - BY_HAND == called


@pytest.mark.slow
def test_head_node_may_start_and_terminate_gpu_machines(
    aws: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    head = start_head(config, provider)
    rights = rights_of(HEAD)
    with acting_under(rights) as (called, refused):
        autoscale(config, provider, head, tmp_path, rounds=3)
        workers = [node for node in provider.non_terminated_nodes({}) if node != head]
        assert workers
        provider.set_node_tags(workers[0], {"ray-node-status": "setting-up"})
        provider.terminate_nodes(workers)
    assert not refused
    assert states(aws) == ["running"] + ["terminated"] * len(workers)
    assert machines_actions(rights) - AGENT == called


@pytest.fixture
def config(aws: Any, aws_config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration that `ray up` writes to the head node."""
    prepared = prepare_config(aws_config)
    provider = _get_node_provider_cls(prepared["provider"])
    return dict(provider.bootstrap_config(prepared))


def cluster_name(name: str) -> list[dict[str, Any]]:
    """Return the TagSpecifications of a machine of the named cluster."""
    tag = {"Key": "ray-cluster-name", "Value": name}
    return [{"ResourceType": "instance", "Tags": [tag]}]


OTHERS: dict[str, dict[str, Any]] = {
    "another region": {},
    "another type": {"InstanceType": "p5.48xlarge"},
    "nobody's machine": {"TagSpecifications": []},
    "another's machine": {"TagSpecifications": cluster_name("production")},
    "other network rules": {"SecurityGroupIds": ["sg-12345678"]},
    "the head's role": {"IamInstanceProfile": {"Name": HEAD}},
    "another's role": {"IamInstanceProfile": {"Name": "administrator"}},
}


def test_head_node_may_not_start_other_machines(aws: Any, config: dict[str, Any]) -> None:
    machine = dict(config["available_node_types"]["gpu"]["node_config"])
    machine |= {"SubnetId": machine.pop("SubnetIds")[0], "MinCount": 1, "MaxCount": 1}
    machine["TagSpecifications"] = cluster_name("segmentation-2")
    other_region = boto3.client("ec2", "us-east-1")
    with acting_under(rights_of(HEAD)):
        for other, change in OTHERS.items():
            ec2 = other_region if other == "another region" else aws
            with pytest.raises(ClientError, match="UnauthorizedOperation"):
                ec2.run_instances(**{**machine, **change})
        aws.run_instances(**machine)
    assert states(aws) == ["running"]


@pytest.mark.slow
def test_nobody_may_change_foreign_machines_or_network_rules(aws: Any) -> None:
    reply = aws.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1)
    foreign = reply["Instances"][0]["InstanceId"]
    tag = {"Key": "ray-cluster-name", "Value": "segmentation"}
    calls = (
        lambda: aws.terminate_instances(InstanceIds=[foreign]),
        lambda: aws.stop_instances(InstanceIds=[foreign]),
        lambda: aws.create_tags(Resources=[foreign], Tags=[tag]),  # would allow to terminate it
        lambda: aws.get_console_output(InstanceId=foreign),
        lambda: boto3.client("ssm").start_session(Target=foreign),
        lambda: aws.authorize_security_group_ingress(GroupName="segmentation"),
        lambda: aws.create_security_group(GroupName="open", Description="to all"),
        lambda: boto3.client("iam").create_access_key(UserName="administrator"),
    )
    for principal in (PEOPLE, HEAD, WORKER):
        with acting_under(rights_of(principal)) as (_, refused):
            for call in calls:
                with pytest.raises(ClientError, match="UnauthorizedOperation"):
                    call()
            assert len(refused) == len(calls)
    assert states(aws) == ["running"]


# What each principal may do with objects below a prefix of the bucket: read, write and delete.
BUCKET_RIGHTS = {
    "storage": {PEOPLE: "rwd", HEAD: "rwd", WORKER: "rwd"},
    "artifacts": {PEOPLE: "rwd", HEAD: "rwd", WORKER: "rwd"},
    "data": {PEOPLE: "rwd", HEAD: "r", WORKER: "r"},
    "weights": {PEOPLE: "rwd", HEAD: "r", WORKER: "r"},
    "tracking": {PEOPLE: "rwd", HEAD: "rwd", WORKER: ""},
    "other": {PEOPLE: "", HEAD: "", WORKER: ""},
}


@pytest.mark.slow
def test_bucket_access_is_limited_to_prefixes_and_current_objects(aws: Any) -> None:
    for principal in (PEOPLE, HEAD, WORKER):
        rights = rights_of(principal)

        def allowed(action: str, path: str, rights: Rights = rights) -> bool:
            return rights.allow(Request(f"s3:{action}", f"arn:aws:s3:::{path}"))

        assert allowed("ListBucket", BUCKET)
        for prefix, expected in BUCKET_RIGHTS.items():
            path = f"{BUCKET}/{prefix}/name/file"
            actions = {"r": "GetObject", "w": "PutObject", "d": "DeleteObject"}
            got = "".join(letter for letter, action in actions.items() if allowed(action, path))
            assert got == expected[principal], (principal, prefix)
            assert allowed("AbortMultipartUpload", path) == ("w" in got)
            # Nobody may read or delete the earlier versions of an object.
            for action in ("DeleteObjectVersion", "GetObjectVersion", "PutObjectAcl"):
                assert not allowed(action, path)
        assert not allowed("GetObject", "another/storage/checkpoint")
        for action in ("PutBucketVersioning", "PutLifecycleConfiguration", "PutBucketPolicy"):
            assert not allowed(action, BUCKET)


def test_bucket_is_private_and_keeps_deleted_objects_for_a_while() -> None:
    # Check the template itself: moto ignores most of these settings.
    resources = load(str(TEMPLATE))["Resources"]
    bucket = resources["ResultsBucket"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    settings = bucket["Properties"]
    assert len(settings["PublicAccessBlockConfiguration"]) == 4
    assert all(settings["PublicAccessBlockConfiguration"].values())
    assert settings["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert settings["VersioningConfiguration"] == {"Status": "Enabled"}
    rules = [set(rule) - {"Id", "Status"} for rule in settings["LifecycleConfiguration"]["Rules"]]
    assert {"AbortIncompleteMultipartUpload"} in rules
    assert {"NoncurrentVersionExpiration", "ExpiredObjectDeleteMarker"} in rules
    (refused,) = resources["TlsOnly"]["Properties"]["PolicyDocument"]["Statement"]
    assert (refused["Effect"], refused["Principal"], refused["Action"]) == ("Deny", "*", "s3:*")
    assert refused["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert len(refused["Resource"]) == 2  # the bucket and its objects


def machines_actions(rights: Rights) -> set[str]:
    """Return the allowed actions except those on the bucket."""
    actions = set()
    for statement in rights.statements:
        action = statement["Action"]
        actions |= set(action if isinstance(action, list) else [action])
    return {action for action in actions if not action.startswith("s3:")}


def states(aws: Any) -> list[str]:
    """Return the sorted states of all machines, including terminated ones."""
    return sorted(
        machine["State"]["Name"]
        for reservation in aws.describe_instances()["Reservations"]
        for machine in reservation["Instances"]
    )
