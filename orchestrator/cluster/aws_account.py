"""Checks whether an AWS account may start the machines of a cluster file, before any is started."""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

_SPOT = "InstanceMarketOptions"
_SPOT_ROLE = "AWSServiceRoleForEC2Spot"
# Quotas in vCPUs by the beginning of an instance type: code on demand, code of spot machines.
_QUOTAS = (
    ("(g|vt)[0-9]", "L-DB2E81BA", "L-3819A6DF"),
    ("p5", "L-417A185B", "L-C4BD4855"),
    ("p[234]", "L-417A185B", "L-7212CCBC"),
    ("[acdhimrtz][0-9]", "L-1216C47A", "L-34B43A08"),
)
_INSTEAD = "will be tried on demand, at the full price"
_NO_RIGHT = ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation")


@dataclass
class AccountCheck:
    """The result of a check: what prevents machines from starting, what only prevents spot machines
    for which on-demand machines are tried, and what could not be checked, with the reason."""

    obstacles: list[str] = field(default_factory=list)
    replaced: list[str] = field(default_factory=list)
    checked: list[str] = field(default_factory=list)
    unchecked: dict[str, list[str]] = field(default_factory=dict)  # by reason

    def run(self, subject: str, check: Callable[[], list[str]]) -> None:
        """Run one check and add its result."""
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            self.obstacles += check()
            self.checked.append(subject)
        except ClientError as error:
            code = error.response["Error"]["Code"]
            reason = "no right to ask" if code in _NO_RIGHT else code
            self.unchecked.setdefault(reason, []).append(subject)
        except BotoCoreError as error:  # no credentials, no network
            self.unchecked.setdefault(type(error).__name__, []).append(subject)

    def remarks(self) -> Iterator[str]:
        """Yield what was checked, what was not and which machines are replaced, with reasons."""
        if self.checked:
            yield f"checked: {', '.join(self.checked)}"
        for reason, subjects in self.unchecked.items():
            yield f"not checked: {', '.join(subjects)} ({reason})"
        yield from self.replaced


def check_account(config: Mapping[str, Any], machines: Mapping[str, int]) -> AccountCheck:
    """Ask AWS for the stack, the bucket, the spot role, the images and the quotas.

    config: of `ray up`. machines: number of each node type that a study needs, besides the head.
    """
    result = AccountCheck()
    try:
        from boto3.session import Session
        from botocore.config import Config
    except ImportError:
        result.unchecked["boto3 is not installed"] = ["the AWS account"]
        return result
    region = config["provider"]["region"]
    session = Session(region_name=region)
    options = Config(connect_timeout=5, read_timeout=20, retries={"total_max_attempts": 2})
    client = partial(session.client, config=options)
    counts = Counter({config["head_node_type"]: 1}) + Counter(machines)
    nodes = [(config["available_node_types"][n]["node_config"], c) for n, c in counts.items()]
    types = {node["InstanceType"] for node, _ in nodes}
    result.run("stack", lambda: _stack(client("cloudformation"), region, types))
    result.run("bucket", lambda: _bucket(client("s3"), region, config))
    fallback = bool(config["provider"].get("on_demand_fallback", True))
    no_role: list[str] = []

    def spot_role() -> list[str]:
        no_role.extend(_spot_role(client("iam")))
        return [] if fallback else no_role

    if any(_SPOT in node for node, _ in nodes):
        result.run("spot role", spot_role)
    if fallback:
        result.replaced += [f"{problem}; until then all machines {_INSTEAD}" for problem in no_role]
    images = sorted({node["ImageId"] for node, _ in nodes if "ImageId" in node})
    result.run("images", lambda: _images(client("ssm"), client("ec2"), images))
    quotas, ec2, remark = client("service-quotas"), client("ec2"), result.replaced.append
    check = partial(_missing_quotas, quotas, ec2, nodes, not no_role, fallback, remark)
    result.run("quotas", check)
    return result


def _stack(client: Any, region: str, types: set[str]) -> list[str]:
    from botocore.exceptions import ClientError

    deploy = "deploy clusters/aws/permissions.yaml (docs/aws.md, step 1)"
    try:
        (stack,) = client.describe_stacks(StackName="segmentation")["Stacks"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "ValidationError":
            raise
        return [f"{region} has no CloudFormation stack `segmentation`; {deploy}"]
    if stack["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        return [f"the stack `segmentation` is in state {stack['StackStatus']}; {deploy}"]
    values = {one["ParameterKey"]: one["ParameterValue"] for one in stack.get("Parameters", [])}
    missing = sorted(types - set(re.findall(r"[\w.-]+", values.get("Machines", ""))))
    if missing:
        return [f"the stack's `Machines` does not list {', '.join(missing)}; {deploy}"]
    return []


def _bucket(client: Any, region: str, config: Mapping[str, Any]) -> list[str]:
    from botocore.exceptions import ClientError

    name = config.get("metadata", {}).get("bucket")
    if name is None:
        return []
    try:
        reply = client.head_bucket(Bucket=name)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("404", "403"):
            raise
        reason = "does not exist" if error.response["Error"]["Code"] == "404" else "is not yours"
        return [f"the bucket {name} {reason}; edit the line `bucket` of the cluster file"]
    where = reply.get("BucketRegion", region)
    if where != region:
        return [f"the bucket {name} is in {where}, the machines in {region}; use one region"]
    return []


def _spot_role(client: Any) -> list[str]:
    try:
        client.get_role(RoleName=_SPOT_ROLE)
    except client.exceptions.NoSuchEntityException:
        return [
            "this account has no role for spot machines; an administrator runs `aws iam "
            "create-service-linked-role --aws-service-name spot.amazonaws.com` once"
        ]
    return []


def _images(ssm: Any, ec2: Any, images: list[str]) -> list[str]:
    names = [image.removeprefix("resolve:ssm:") for image in images if ":" in image]
    missing = ssm.get_parameters(Names=names)["InvalidParameters"] if names else []
    ids = [image for image in images if ":" not in image]
    by_id = [{"Name": "image-id", "Values": ids}]
    if ids:
        present = {image["ImageId"] for image in ec2.describe_images(Filters=by_id)["Images"]}
        missing += sorted(set(ids) - present)
    return [f"the image {name} does not exist in this region; edit `ImageId`" for name in missing]


def _missing_quotas(
    quotas: Any,
    ec2: Any,
    nodes: Sequence[tuple[Mapping[str, Any], int]],
    has_spot: bool,
    fallback: bool,
    remark: Callable[[str], None],
) -> list[str]:
    """Return the quotas that are too small for the machines of a study.

    has_spot: whether the account can start spot machines. fallback: whether on-demand machines
    replace spot machines; a spot quota that is too small is then only a remark, and the quota of
    on-demand machines decides.
    """
    from botocore.exceptions import ClientError

    types = sorted({node["InstanceType"] for node, _ in nodes})
    try:
        reply = ec2.describe_instance_types(InstanceTypes=types)["InstanceTypes"]
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidInstanceType":
            raise
        return [f"AWS says: {error.response['Error']['Message']}; edit `InstanceType`"]
    cores = {one["InstanceType"]: one["VCpuInfo"]["DefaultVCpus"] for one in reply}

    def too_small(machines: Counter[str], column: int) -> Iterator[tuple[str, Counter[str]]]:
        """Yield each quota that is too small, as a sentence, with the machines beyond it."""
        by_code: dict[str, Counter[str]] = {}
        for kind, count in machines.items():
            codes = next((codes for start, *codes in _QUOTAS if re.match(start, kind)), None)
            if codes is not None:
                by_code.setdefault(codes[column], Counter())[kind] = count
        for code, counts in by_code.items():
            quota = quotas.get_service_quota(ServiceCode="ec2", QuotaCode=code)["Quota"]
            needed = sum(count * cores[kind] for kind, count in counts.items())
            if quota["Value"] >= needed:
                continue
            left, beyond = quota["Value"], Counter[str]()
            for kind, count in counts.items():
                fitting = min(count, int(left // cores[kind]))
                left -= fitting * cores[kind]
                beyond[kind] = count - fitting
            yield (
                f"the quota '{quota['QuotaName']}' is {quota['Value']:g} vCPUs, but "
                f"{_listed(counts)} need {needed}; request more in Service Quotas",
                +beyond,
            )

    obstacles = []
    on_demand, spot = Counter[str](), Counter[str]()
    for node, count in nodes:
        as_spot = _SPOT in node and (has_spot or not fallback)
        (spot if as_spot else on_demand)[node["InstanceType"]] += count
    for problem, beyond in too_small(spot, 1):
        if fallback:
            remark(f"{problem}; until then {_listed(beyond)} {_INSTEAD}")
            on_demand += beyond
        else:
            obstacles.append(problem)
    return obstacles + [problem for problem, _ in too_small(on_demand, 0)]


def _listed(machines: Counter[str]) -> str:
    return " and ".join(f"{count} x {kind}" for kind, count in machines.items())
