"""The fixtures of tests/support/aws.py: the content of cluster.yaml and an AWS account."""

from tests.support.aws import aws, aws_config

__all__ = ["aws", "aws_config"]
