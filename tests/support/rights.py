"""AWS's judgement of a call by the policies of clusters/aws/permissions.yaml. moto's own looks
neither at the machines a call names nor at a policy's conditions.

What a call is judged for (actions, each on a resource and with facts about it) is what AWS's
reference of EC2's actions, resources and condition keys says. A call that is not known here is one
for `*`.
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
class Asked:
    """One action on one resource, with the facts that conditions are about."""

    action: str
    resource: str = "*"
    facts: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Rights:
    """Statements of policies. Nothing is allowed that none allows, or that one denies."""

    statements: tuple[Mapping[str, Any], ...]

    def allow(self, asked: Asked) -> bool:
        effects = {one["Effect"] for one in self.statements if _applies(one, asked)}
        return effects == {"Allow"}


def _applies(statement: Mapping[str, Any], asked: Asked) -> bool:
    unknown = set(statement) - {"Effect", "Action", "Resource", "Condition"}
    assert not unknown, f"not understood here: {unknown}"
    return (
        _matches(statement["Action"], asked.action)
        and _matches(statement["Resource"], asked.resource)
        and all(
            key in asked.facts and _OPERATORS[operator](values, asked.facts[key])
            for operator, wanted in statement.get("Condition", {}).items()
            for key, values in wanted.items()
        )
    )


def _matches(patterns: str | list[str], value: str) -> bool:
    return any(fnmatchcase(value, pattern) for pattern in _several(patterns))


_OPERATORS: dict[str, Callable[[str | list[str], str], bool]] = {
    "StringLike": _matches,
    "StringEquals": lambda values, value: value in _several(values),
}


def _several(values: str | list[str]) -> list[str]:
    return values if isinstance(values, list) else [values]


def rights_of(name: str) -> Rights:
    """Of a role or group of the stack. moto makes no groups and attaches nothing to roles, so that
    the template says which policies are whose; what they say is then as the stack made it."""
    resources = load(str(TEMPLATE))["Resources"]
    (who,) = [
        one["Properties"]
        for one in resources.values()
        if one["Type"] in ("AWS::IAM::Group", "AWS::IAM::Role")
        and name in (one["Properties"].get("GroupName"), one["Properties"].get("RoleName"))
    ]
    iam = boto3.client("iam")
    found = []
    for attached in who["ManagedPolicyArns"]:
        policy = resources[attached["Ref"]]["Properties"]["ManagedPolicyName"]
        arn = f"arn:aws:iam::{ACCOUNT}:policy/{policy}"
        version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
        made = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]
        found += _statements(made["Document"])
    for own in who.get("Policies", []):
        made = iam.get_role_policy(RoleName=name, PolicyName=own["PolicyName"])
        found += _statements(made["PolicyDocument"])
    return Rights(tuple(found))


def _statements(document: Any) -> list[Mapping[str, Any]]:
    # Of a role's own policies, moto gives what Python prints.
    read = yaml.safe_load(document) if isinstance(document, str) else document
    statements: list[Mapping[str, Any]] = read["Statement"]
    return statements


@contextmanager
def acting_with(rights: Rights) -> Iterator[tuple[set[str], list[Asked]]]:
    """Whoever calls AWS here has these rights. Gives what was asked for, and what was refused."""
    called: set[str] = set()
    refused: list[Asked] = []

    def judged(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        asked = [*_asked(client, operation, parameters)]
        called.update(one.action for one in asked)
        wrong = [one for one in asked if not rights.allow(one)]
        if wrong:
            refused.extend(wrong)
            told = {"Code": "UnauthorizedOperation", "Message": f"not allowed: {wrong[0]}"}
            raise ClientError({"Error": told}, operation)
        return _CALL(client, operation, parameters)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BaseClient, "_make_api_call", judged)
        yield called, refused


def _asked(client: Any, operation: str, parameters: Mapping[str, Any]) -> Iterator[Asked]:
    region = {"aws:RequestedRegion": client.meta.region_name}
    action = f"{client.meta.service_model.service_name}:{operation}"
    arn = f"arn:aws:ec2:{client.meta.region_name}:{ACCOUNT}:"
    if action == "ec2:RunInstances":
        yield from _machines(parameters, arn, region)
    elif action in ("ec2:CreateTags", "ec2:TerminateInstances", "ec2:GetConsoleOutput"):
        named = parameters.get("Resources") or parameters.get("InstanceIds")
        for machine in named or [parameters["InstanceId"]]:
            of_machine = {"Filters": [{"Name": "resource-id", "Values": [machine]}]}
            found = _CALL(client, "DescribeTags", of_machine)
            tags = {f"aws:ResourceTag/{tag['Key']}": tag["Value"] for tag in found["Tags"]}
            yield Asked(action, f"{arn}instance/{machine}", region | tags)
    elif action == "ec2:CreateKeyPair":
        yield Asked(action, f"{arn}key-pair/{parameters['KeyName']}", region)
    else:
        yield Asked(action, facts=region)


def _machines(
    parameters: Mapping[str, Any], arn: str, region: Mapping[str, str]
) -> Iterator[Asked]:
    """What RunInstances asks for: all that a machine is made of, its name, its image, its role."""
    tags = {
        f"aws:RequestTag/{tag['Key']}": tag["Value"]
        for specification in parameters.get("TagSpecifications", [])
        for tag in specification["Tags"]
    }
    facts = {**region, **tags, "ec2:InstanceType": parameters["InstanceType"]}
    yield Asked("ec2:RunInstances", f"{arn}instance/*", facts)
    parts = [f"subnet/{parameters['SubnetId']}", f"key-pair/{parameters['KeyName']}"]
    parts += [f"security-group/{group}" for group in parameters["SecurityGroupIds"]]
    parts += ["network-interface/*", "volume/*"]
    parts += ["spot-instances-request/*"] if "InstanceMarketOptions" in parameters else []
    for part in parts:
        yield Asked("ec2:RunInstances", arn + part, region)
    of_all = arn.replace(ACCOUNT, "")
    yield Asked("ec2:RunInstances", f"{of_all}image/ami-1", region)
    if stored := re.fullmatch(r"resolve:ssm:(.+)", parameters["ImageId"]):
        place = of_all.replace(":ec2:", ":ssm:")
        yield Asked("ssm:GetParameters", f"{place}parameter{stored[1]}", region)
    if tags:
        while_made = {**region, **tags, "ec2:CreateAction": "RunInstances"}
        yield Asked("ec2:CreateTags", f"{arn}instance/*", while_made)
    if profile := parameters.get("IamInstanceProfile"):
        # In the template a profile and its role have one name.
        role = f"arn:aws:iam::{ACCOUNT}:role/{profile['Name']}"
        yield Asked("iam:PassRole", role, {"iam:PassedToService": "ec2.amazonaws.com"})
