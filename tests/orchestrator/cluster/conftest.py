"""cluster.yaml and an AWS account, both fixtures of tests/support/aws.py."""

from tests.support.aws import aws, aws_config

__all__ = ["aws", "aws_config"]
