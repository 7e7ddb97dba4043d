"""What clusters/aws/permissions.yaml lets people, the head and GPU machines do: all that Ray's
commands and autoscaler call AWS for on cluster.yaml, and nothing beside it."""

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
from tests.support.rights import TEMPLATE, Asked, Rights, acting_with, rights_of

pytestmark = [
    # botocore and moto on themselves
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

PEOPLE, HEAD, WORKER = "segmentation", "segmentation-head", "segmentation-worker"
# What docs/aws.md has people do beside Ray's commands.
BY_HAND = {"ec2:CreateKeyPair", "ec2:GetConsoleOutput", "ssm:GetParameter"}


def test_cloudformation_takes_the_template() -> None:
    found = cfnlint.api.lint_file(TEMPLATE)
    assert not found, "\n".join(map(str, found))


def test_the_document_deploys_it() -> None:
    document = (TEMPLATE.parents[2] / "docs/aws.md").read_text()
    parameters = load(str(TEMPLATE))["Parameters"]
    needed = {name for name, parameter in parameters.items() if "Default" not in parameter}
    for text in (document, TEMPLATE.read_text()):
        (told,) = re.findall(r"aws cloudformation deploy(?:.*\\\n)+.*", text)
        assert needed == set(re.findall(r"\b(\w+)=", told))
    for name in parameters:
        assert re.search(rf"^\|.*`{name}[`=]", document, re.MULTILINE), name


@pytest.mark.slow
def test_people_bring_a_cluster_up_and_down(
    aws: Any,
    aws_config: dict[str, Any],
    config: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Machines that do as they are told; Ray's waiting for them is short.
    monkeypatch.setattr(SSHCommandRunner, "run", lambda *_, **__: "")
    monkeypatch.setattr(SSHCommandRunner, "run_rsync_up", lambda *_, **__: None)
    monkeypatch.setattr(commands, "POLL_INTERVAL", 0.1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where it keeps what it found out
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump({**aws_config, "file_mounts": {}}))
    rights, heads = rights_of(PEOPLE), rights_of(HEAD)
    with acting_with(rights) as (called, refused):
        commands.create_or_update_cluster(
            str(file), None, None, False, False, True, None, no_config_cache=True
        )
        assert states(aws) == ["running"]
        commands.teardown_cluster(str(file), True, False, None, False)
        assert states(aws) == ["terminated"]
        # GPU machines whose head is gone.
        with acting_with(heads):
            provider = _get_node_provider(config["provider"], config["cluster_name"])
            gpu = config["available_node_types"]["gpu"]["node_config"]
            provider.create_node(gpu, {TAG_RAY_NODE_KIND: NODE_KIND_WORKER}, 2)
        commands.teardown_cluster(str(file), True, False, None, False)
    assert not refused
    assert set(states(aws)) == {"terminated"}
    assert machines_actions(rights) - BY_HAND == called


def test_the_head_starts_and_ends_gpu_machines(
    aws: Any, config: dict[str, Any], tmp_path: Path
) -> None:
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    head = start_head(config, provider)
    rights = rights_of(HEAD)
    with acting_with(rights) as (called, refused):
        autoscale(config, provider, head, tmp_path, rounds=3)
        workers = [node for node in provider.non_terminated_nodes({}) if node != head]
        assert workers
        provider.set_node_tags(workers[0], {"ray-node-status": "setting-up"})
        provider.terminate_nodes(workers)
    assert not refused
    assert states(aws) == ["running"] + ["terminated"] * len(workers)
    assert machines_actions(rights) == called


@pytest.fixture
def config(aws: Any, aws_config: dict[str, Any]) -> dict[str, Any]:
    """What `ray up` leaves on the head."""
    prepared = prepare_config(aws_config)
    provider = _get_node_provider_cls(prepared["provider"])
    return dict(provider.bootstrap_config(prepared))


def cluster_name(name: str) -> list[dict[str, Any]]:
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


def test_the_head_starts_no_other_machines(aws: Any, config: dict[str, Any]) -> None:
    machine = dict(config["available_node_types"]["gpu"]["node_config"])
    machine |= {"SubnetId": machine.pop("SubnetIds")[0], "MinCount": 1, "MaxCount": 1}
    machine["TagSpecifications"] = cluster_name("segmentation-2")
    abroad = boto3.client("ec2", "us-east-1")
    with acting_with(rights_of(HEAD)):
        for other, change in OTHERS.items():
            ec2 = abroad if other == "another region" else aws
            with pytest.raises(ClientError, match="UnauthorizedOperation"):
                ec2.run_instances(**{**machine, **change})
        aws.run_instances(**machine)
    assert states(aws) == ["running"]


def test_foreign_machines_and_the_networks_rules_are_nobodys(aws: Any) -> None:
    made = aws.run_instances(ImageId="ami-12345678", MinCount=1, MaxCount=1)
    foreign = made["Instances"][0]["InstanceId"]
    tag = {"Key": "ray-cluster-name", "Value": "segmentation"}
    tries = (
        lambda: aws.terminate_instances(InstanceIds=[foreign]),
        lambda: aws.stop_instances(InstanceIds=[foreign]),
        lambda: aws.create_tags(Resources=[foreign], Tags=[tag]),  # and end it then
        lambda: aws.get_console_output(InstanceId=foreign),
        lambda: aws.authorize_security_group_ingress(GroupName="segmentation"),
        lambda: aws.create_security_group(GroupName="open", Description="to all"),
        lambda: boto3.client("iam").create_access_key(UserName="administrator"),
    )
    for who in (PEOPLE, HEAD, WORKER):
        with acting_with(rights_of(who)) as (_, refused):
            for act in tries:
                with pytest.raises(ClientError, match="UnauthorizedOperation"):
                    act()
            assert len(refused) == len(tries)
    assert states(aws) == ["running"]


def test_the_bucket(aws: Any) -> None:
    for who in (PEOPLE, HEAD, WORKER):
        rights = rights_of(who)

        def allowed(action: str, place: str, rights: Rights = rights) -> bool:
            return rights.allow(Asked(f"s3:{action}", f"arn:aws:s3:::{place}"))

        assert allowed("ListBucket", BUCKET)
        for action in ("GetObject", "PutObject", "DeleteObject", "AbortMultipartUpload"):
            assert allowed(action, f"{BUCKET}/storage/checkpoint")
            # What trains has no business with the tracking server's database.
            assert allowed(action, f"{BUCKET}/tracking/segmentation/owner") == (who != WORKER)
            assert not allowed(action, "another/storage/checkpoint")
        # What was deleted or overwritten stays for as long as the bucket keeps it.
        for action in ("DeleteObjectVersion", "GetObjectVersion", "PutObjectAcl"):
            assert not allowed(action, f"{BUCKET}/storage/checkpoint")
        for action in ("PutBucketVersioning", "PutLifecycleConfiguration", "PutBucketPolicy"):
            assert not allowed(action, BUCKET)


def test_the_bucket_is_closed_and_forgets_nothing_at_once() -> None:
    # As it is written, for moto makes the bucket without most of this.
    resources = load(str(TEMPLATE))["Resources"]
    bucket = resources["ResultsBucket"]
    assert bucket["DeletionPolicy"] == bucket["UpdateReplacePolicy"] == "Retain"
    settings = bucket["Properties"]
    assert len(settings["PublicAccessBlockConfiguration"]) == 4
    assert all(settings["PublicAccessBlockConfiguration"].values())
    assert settings["BucketEncryption"]["ServerSideEncryptionConfiguration"]
    assert settings["VersioningConfiguration"] == {"Status": "Enabled"}
    ends = [set(rule) - {"Id", "Status"} for rule in settings["LifecycleConfiguration"]["Rules"]]
    assert {"AbortIncompleteMultipartUpload"} in ends
    assert {"NoncurrentVersionExpiration", "ExpiredObjectDeleteMarker"} in ends
    (refused,) = resources["TlsOnly"]["Properties"]["PolicyDocument"]["Statement"]
    assert (refused["Effect"], refused["Principal"], refused["Action"]) == ("Deny", "*", "s3:*")
    assert refused["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert len(refused["Resource"]) == 2  # the bucket, and what is in it


def machines_actions(rights: Rights) -> set[str]:
    """Whatever is allowed of anything but the bucket."""
    found = set()
    for statement in rights.statements:
        named = statement["Action"]
        found |= set(named if isinstance(named, list) else [named])
    return {action for action in found if not action.startswith("s3:")}


def states(aws: Any) -> list[str]:
    """Of all machines there are and were."""
    return sorted(
        machine["State"]["Name"]
        for made in aws.describe_instances()["Reservations"]
        for machine in made["Instances"]
    )
