"""Share the fixtures for cluster.yaml and a mocked AWS account from tests/support/aws.py."""

from tests.support.aws import aws, aws_config

__all__ = ["aws", "aws_config"]
