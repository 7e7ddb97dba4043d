"""The cluster files as tests read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from cfnlint.decode.cfn_yaml import loads
from moto import mock_aws

PROJECT = Path(__file__).parents[2]
REGION = "us-west-2"
BUCKET = "my-bucket"
SSH_FROM = "198.51.100.0/24"


@pytest.fixture
def aws_config(tmp_path: Path) -> dict[str, Any]:
    """cluster.yaml, with a private key that is there."""
    config: dict[str, Any] = yaml.safe_load((PROJECT / "cluster.yaml").read_text())
    key = tmp_path / "key.pem"
    key.write_text("a private key")
    config["auth"]["ssh_private_key"] = str(key)
    return config


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An AWS account with the key pair, the rules and the roles that cluster.yaml names."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws():
        template = (PROJECT / "clusters/aws/permissions.yaml").read_text()
        # moto takes a list that is a parameter's default for one word.
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
