"""Price and account checks of a study that is planned on a cluster file, before `ray up`: an AWS
account on moto."""

from datetime import date
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from orchestrator.cluster.address import ClusterFileError
from orchestrator.cluster.aws_account import check_account
from orchestrator.cluster.aws_prices import hourly_price
from orchestrator.cluster.cluster_file import ClusterFile
from orchestrator.scheduling.capacity import plan_placement
from orchestrator.study.resources import Resources
from orchestrator.sweep.__main__ import main as sweep
from tests.support.aws import BUCKET, REGION

pytestmark = [
    # botocore and moto use deprecated functions of their own.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

IMAGE = "resolve:ssm:/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-x86_64"
SPOT_ROLE = "AWSServiceRoleForEC2Spot"
ON_DEMAND, SPOT = "L-DB2E81BA", "L-3819A6DF"


@pytest.fixture
def account(aws: Any, aws_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set up an account without obstacles; return its quotas, which moto does not have."""
    # moto would give a service-linked role another name.
    boto3.client("iam").create_role(RoleName=SPOT_ROLE, AssumeRolePolicyDocument="{}")
    for node_type in aws_config["available_node_types"].values():
        node_type["node_config"]["ImageId"] = IMAGE  # moto does not have Ubuntu's parameters
    quotas = {SPOT: 96.0, ON_DEMAND: 0.0, "L-1216C47A": 8.0}

    def get_service_quota(self: Any, service_code: str, quota_code: str) -> dict[str, Any]:
        assert service_code == "ec2"
        return {"QuotaName": f"name of {quota_code}", "Value": quotas[quota_code]}

    target = "moto.servicequotas.models.ServiceQuotasBackend.get_service_quota"
    monkeypatch.setattr(target, get_service_quota)
    return quotas


def test_account_that_is_ready_has_no_obstacles(account: Any, aws_config: dict[str, Any]) -> None:
    check = check_account(aws_config, {"gpu": 2})
    assert check.checked == ["stack", "bucket", "spot role", "images", "quotas"]
    assert not check.obstacles
    assert not check.unchecked


@pytest.mark.parametrize(("on_demand", "is_enough"), [(47.0, False), (48.0, True)])
def test_quota_of_on_demand_machines_decides_if_that_of_spot_machines_is_too_small(
    account: Any, aws_config: dict[str, Any], on_demand: float, is_enough: bool
) -> None:
    account[ON_DEMAND] = on_demand
    check = check_account(aws_config, {"gpu": 3})
    remark = list(check.remarks())[-1]
    assert f"'name of {SPOT}' is 96 vCPUs, but 3 x g6e.12xlarge need 144" in remark
    assert "1 x g6e.12xlarge will be tried on demand, at the full price" in remark
    if is_enough:
        assert not check.obstacles
    else:
        (obstacle,) = check.obstacles
        assert f"'name of {ON_DEMAND}' is 47 vCPUs, but 1 x g6e.12xlarge need 48" in obstacle


def test_account_without_the_spot_role_needs_the_quota_of_on_demand_machines(
    account: Any, aws_config: dict[str, Any]
) -> None:
    boto3.client("iam").delete_role(RoleName=SPOT_ROLE)
    account[ON_DEMAND] = 96.0
    check = check_account(aws_config, {"gpu": 2})
    assert not check.obstacles
    assert "no role for spot machines" in list(check.remarks())[-1]
    (obstacle,) = check_account(aws_config, {"gpu": 3}).obstacles
    assert f"'name of {ON_DEMAND}' is 96 vCPUs, but 3 x g6e.12xlarge need 144" in obstacle


def test_each_obstacle_is_named(account: Any, aws_config: dict[str, Any]) -> None:
    aws_config["provider"]["on_demand_fallback"] = False
    check = check_account(aws_config, {"gpu": 3})
    (quota,) = check.obstacles
    assert f"'name of {SPOT}' is 96 vCPUs, but 3 x g6e.12xlarge need 144" in quota
    assert not check.replaced

    boto3.client("iam").delete_role(RoleName=SPOT_ROLE)
    boto3.client("cloudformation").delete_stack(StackName="segmentation")
    boto3.client("s3").delete_bucket(Bucket=BUCKET)
    aws_config["available_node_types"]["head"]["node_config"]["ImageId"] = "ami-00000000"
    aws_config["available_node_types"]["gpu"]["node_config"]["ImageId"] = IMAGE + "-none"
    obstacles = "\n".join(check_account(aws_config, {"gpu": 1}).obstacles)
    for expected in (
        f"{REGION} has no CloudFormation stack `segmentation`",
        f"the bucket {BUCKET} does not exist",
        "no role for spot machines",
        "-none does not exist",
        "ami-00000000 does not exist",
    ):
        assert expected in obstacles


def test_machine_type_that_the_stack_does_not_allow_is_named(
    account: Any, aws_config: dict[str, Any]
) -> None:
    node_config = aws_config["available_node_types"]["gpu"]["node_config"]
    node_config["InstanceType"] = "g6.12xlarge"
    del node_config["InstanceMarketOptions"]
    stack, quota = check_account(aws_config, {"gpu": 1}).obstacles
    assert "`Machines` does not list g6.12xlarge" in stack
    assert f"'name of {ON_DEMAND}' is 0 vCPUs, but 1 x g6.12xlarge need 48" in quota


def test_check_without_rights_or_credentials_is_no_obstacle(
    aws_config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, "/none")
    check = check_account(aws_config, {"gpu": 1})
    assert not check.obstacles
    assert "quotas" in check.unchecked["NoCredentialsError"]


def test_price_is_that_of_all_machines_and_its_age_is_stated(aws_config: dict[str, Any]) -> None:
    price = hourly_price(aws_config, {"gpu": 2}, date(2027, 1, 31))
    assert price is not None
    assert price.dollars == pytest.approx(2 * 10.49264 + 0.4032)
    assert "1 x m7i.2xlarge, 2 x g6e.12xlarge, on demand in us-west-2" in price.basis
    assert "(4 months old)" in price.basis
    assert price.bound(1.0) == pytest.approx(price.dollars * (1 + 10 / 60 + 0.25))
    aws_config["provider"]["region"] = "eu-west-1"
    unknown = hourly_price(aws_config, {"gpu": 2})
    assert unknown is not None
    assert unknown.bound(1.0) is None
    assert "m7i.2xlarge, g6e.12xlarge in eu-west-1" in unknown.basis
    del aws_config["provider"]  # as on Kubernetes
    assert hourly_price(aws_config, {"gpu": 2}) is None


def test_file_offers_what_it_may_start(
    account: Any, aws_config: dict[str, Any], tmp_path: Path
) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(aws_config))
    cluster = ClusterFile(str(file))
    resources = Resources(workers=4, cpus_per_worker=8)
    placement = plan_placement(resources, *cluster.offers(resources))
    assert (placement.device, placement.concurrent) == ("cuda", 8)
    launch = cluster.launch(placement, 2)
    assert launch.machines == {"gpu": 2}
    assert launch.remarks == ("checked: stack, bucket, spot role, images, quotas",)


def test_machine_that_does_not_exist_is_an_obstacle(
    account: Any, aws_config: dict[str, Any]
) -> None:
    aws_config["available_node_types"]["gpu"]["node_config"]["InstanceType"] = "g6e.huge"
    obstacles = check_account(aws_config, {"gpu": 1}).obstacles
    assert any("g6e.huge" in each and "edit `InstanceType`" in each for each in obstacles)


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (["available_node_types"], [], r"available_node_types: \[\] is not of type 'object'"),
        (["head_node_type"], "boss", "head_node_type is 'boss', not one of "),
        (
            ["available_node_types", "gpu", "resources"],
            {"CPU": "x"},
            "'x' is not of type 'integer'",
        ),
        (["available_node_types", "gpu", "node_config"], {}, "node_config has no InstanceType"),
        (["max_workers"], None, "max_workers: None is not of type 'integer'"),
        (["provider"], {"type": "aws"}, "provider has no region"),
        (["provider"], None, "provider: None is not of type 'object'"),
    ],
)
def test_file_that_ray_up_rejects_is_one_error(
    aws_config: dict[str, Any], tmp_path: Path, keys: list[str], value: Any, message: str
) -> None:
    inner = aws_config
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    file = tmp_path / "cluster.yaml"
    file.write_text(yaml.safe_dump(aws_config))
    with pytest.raises(ClusterFileError, match=message):
        ClusterFile(str(file))


def test_file_that_is_no_text_is_one_error(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    for content in (b"\xff\xfe", b"a: [", b"- a"):
        file.write_bytes(content)
        with pytest.raises(ClusterFileError):
            ClusterFile(str(file))


def test_command_plans_on_a_file_and_trains_only_on_a_cluster(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    study = tmp_path / "study.yaml"
    study.write_text("study: a\nbase: {data: {dataset: streets}}\nvariants: {strong: {}}\n")
    options = [str(study), "--storage", str(tmp_path / "storage"), "--address", "cluster.yaml"]
    assert sweep(options) == 2
    assert "only --plan accepts; run `ray up cluster.yaml`" in capsys.readouterr().out
    file = tmp_path / "on-premises.yaml"
    file.write_text("provider: {type: local}")
    with pytest.raises(ClusterFileError, match="no `available_node_types`"):
        ClusterFile(str(file))
