"""Authorize AWS calls with the policies of clusters/aws/permissions.yaml.

moto's own authorization ignores a call's resources and a policy's conditions. Here a call needs
the actions, resources and condition keys of AWS's service authorization reference for EC2. A call
that is not listed here needs its action on `*`.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

import boto3
import pytest
import yaml
from botocore.client import BaseClient
from botocore.exceptions import ClientError
from cfnlint.decode.cfn_yaml import load

from tests.support import ROOT

TEMPLATE = ROOT / "clusters/aws/permissions.yaml"
ACCOUNT = "123456789012"  # moto's
_CALL = BaseClient._make_api_call


@dataclass(frozen=True)
class Request:
    """A requested action on one resource. facts: condition key -> value."""

    action: str
    resource: str = "*"
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rights:
    """Policy statements. An action is allowed if at least one allows it and none denies it."""

    statements: tuple[Mapping[str, Any], ...]

    def allow(self, requested: Request) -> bool:
        """Return whether the statements allow the requested action."""
        effects = {
            statement["Effect"] for statement in self.statements if _applies(statement, requested)
        }
        return effects == {"Allow"}


def _applies(statement: Mapping[str, Any], requested: Request) -> bool:
    unknown = set(statement) - {"Effect", "Action", "Resource", "Condition"}
    assert not unknown, f"not understood here: {unknown}"
    return (
        _matches(statement["Action"], requested.action)
        and _matches(statement["Resource"], requested.resource)
        and all(
            _OPERATORS[operator.removesuffix("IfExists")](values, requested.facts[key])
            if key in requested.facts
            else operator.endswith("IfExists")
            for operator, conditions in statement.get("Condition", {}).items()
            for key, values in conditions.items()
        )
    )


def _matches(patterns: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in _as_list(patterns))


_OPERATORS: dict[str, Callable[[str | list[str], str], bool]] = {
    "StringLike": _matches,
    "StringEquals": lambda values, value: value in _as_list(values),
}


def _as_list(values: str | list[str]) -> list[str]:
    return values if isinstance(values, list) else [values]


def rights_of(name: str) -> Rights:
    """Return the rights of a role or group of the stack.

    moto creates no groups and attaches no managed policies to roles, so the attachments come from
    the template. The content of the policies comes from the stack.
    """
    resources = load(str(TEMPLATE))["Resources"]
    (principal,) = [
        one["Properties"]
        for one in resources.values()
        if one["Type"] in ("AWS::IAM::Group", "AWS::IAM::Role")
        and name in (one["Properties"].get("GroupName"), one["Properties"].get("RoleName"))
    ]
    iam = boto3.client("iam")
    statements = []
    for attached in principal["ManagedPolicyArns"]:
        policy = resources[attached["Ref"]]["Properties"]["ManagedPolicyName"]
        arn = f"arn:aws:iam::{ACCOUNT}:policy/{policy}"
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        reply = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
        statements += _statements(reply["Document"])
    for inline in principal.get("Policies", []):
        reply = iam.get_role_policy(RoleName=name, PolicyName=inline["PolicyName"])
        statements += _statements(reply["PolicyDocument"])
    return Rights(tuple(statements))


def _statements(document: Any) -> list[Mapping[str, Any]]:
    # moto returns the inline policies of a role as Python's string of a dict.
    read = yaml.safe_load(document) if isinstance(document, str) else document
    statements: list[Mapping[str, Any]] = read["Statement"]
    return statements


@contextmanager
def acting_under(rights: Rights) -> Iterator[tuple[set[str], list[Request]]]:
    """Authorize all boto3 calls with these rights; yield the called and the refused actions."""
    called: set[str] = set()
    refused: list[Request] = []

    def authorized_call(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        requests = [*_requests(client, operation, parameters)]
        called.update(request.action for request in requests)
        not_allowed = [request for request in requests if not rights.allow(request)]
        if not_allowed:
            refused.extend(not_allowed)
            error = {"Code": "UnauthorizedOperation", "Message": f"not allowed: {not_allowed[0]}"}
            raise ClientError({"Error": error}, operation)
        return _CALL(client, operation, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", authorized_call)
        yield called, refused


def _requests(client: Any, operation: str, parameters: Mapping[str, Any]) -> Iterator[Request]:
    """Return the actions that an API call needs."""
    region = {"aws:RequestedRegion": client.meta.region_name}
    action = f"{client.meta.service_model.service_name}:{operation}"
    arn = f"arn:aws:ec2:{client.meta.region_name}:{ACCOUNT}:"
    if action == "ec2:RunInstances":
        yield from _machines(parameters, arn, region)
    elif action in ("ec2:CreateTags", "ec2:TerminateInstances", "ssm:StartSession"):
        machines = parameters.get("Resources") or parameters.get("InstanceIds")
        for machine in machines or [parameters["Target"]]:
            query = {"Filters": [{"Name": "resource-id", "Values": [machine]}]}
            reply = _CALL(boto3.client("ec2"), "DescribeTags", query)
            tags = {f"aws:ResourceTag/{tag['Key']}": tag["Value"] for tag in reply["Tags"]}
            yield Request(action, f"{arn}instance/{machine}", region | tags)
    elif action == "ec2:CreateKeyPair":
        yield Request(action, f"{arn}key-pair/{parameters['KeyName']}", region)
    else:
        yield Request(action, facts=region)


def _machines(
    parameters: Mapping[str, Any], arn: str, region: Mapping[str, str]
) -> Iterator[Request]:
    """Return the actions that RunInstances needs: for its parts, tags, image and role."""
    tags = {
        f"aws:RequestTag/{tag['Key']}": tag["Value"]
        for specification in parameters.get("TagSpecifications", [])
        for tag in specification["Tags"]
    }
    facts = {**region, **tags, "ec2:InstanceType": parameters["InstanceType"]}
    yield Request("ec2:RunInstances", f"{arn}instance/*", facts)
    parts = [f"subnet/{parameters['SubnetId']}", f"key-pair/{parameters['KeyName']}"]
    parts += [f"security-group/{group}" for group in parameters["SecurityGroupIds"]]
    parts += ["network-interface/*", "volume/*"]
    parts += ["spot-instances-request/*"] if "InstanceMarketOptions" in parameters else []
    for part in parts:
        yield Request("ec2:RunInstances", arn + part, region)
    public_arn = arn.replace(ACCOUNT, "")
    yield Request("ec2:RunInstances", f"{public_arn}image/ami-1", region)
    if ssm := re.fullmatch(r"resolve:ssm:(.+)", parameters["ImageId"]):
        ssm_arn = public_arn.replace(":ec2:", ":ssm:")
        yield Request("ssm:GetParameters", f"{ssm_arn}parameter{ssm[1]}", region)
    if tags:
        tag_facts = {**region, **tags, "ec2:CreateAction": "RunInstances"}
        yield Request("ec2:CreateTags", f"{arn}instance/*", tag_facts)
    if profile := parameters.get("IamInstanceProfile"):
        # In the template an instance profile and its role have the same name.
        role = f"arn:aws:iam::{ACCOUNT}:role/{profile['Name']}"
        yield Request("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})
