"""The cluster files as tests read them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from moto import mock_aws

PROJECT = Path(__file__).parents[2]
REGION = "us-west-2"
BUCKET = "my-bucket"


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
    """An AWS account with the key pair and the roles that cluster.yaml names."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
    with mock_aws():
        boto3.client("cloudformation", region_name=REGION).create_stack(
            StackName="segmentation",
            TemplateBody=(PROJECT / "clusters/aws/permissions.yaml").read_text(),
            Capabilities=["CAPABILITY_NAMED_IAM"],
            Parameters=[{"ParameterKey": "Bucket", "ParameterValue": BUCKET}],
        )
        ec2 = boto3.client("ec2", region_name=REGION)
        ec2.create_key_pair(KeyName="segmentation")
        yield ec2
