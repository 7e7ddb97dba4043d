"""clusters/backup_owner.py: at most one head node owns the backups at any time."""

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import boto3
import pytest
from moto import mock_aws

from tests.support.heads import BUCKET, CLUSTERS, KEYS

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


class Clock:
    """Clock that only `sleep` advances, and that calls `meanwhile` after each sleep."""

    def __init__(self) -> None:
        self.now = 0.0
        self.meanwhile: Callable[[], None] = lambda: None

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.meanwhile()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Callable[[str], Any]]:
    """Return a function that loads the program for the head node of a given name."""
    for name, value in KEYS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("BACKUP", f"s3://{BUCKET}/tracking/segmentation")

    def start(name: str) -> ModuleType:
        monkeypatch.setenv("HEAD", name)
        spec = importlib.util.spec_from_file_location("owner", CLUSTERS / "backup_owner.py")
        assert spec is not None
        assert spec.loader is not None
        program = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "owner", program)
        spec.loader.exec_module(program)
        monkeypatch.setattr(program, "time", clock)
        return program

    with mock_aws():
        boto3.client("s3").create_bucket(Bucket=BUCKET)
        yield start


def _assert_refused(step: Callable[[], None]) -> None:
    """Assert that a step exits with code 3: another head node owns the backups."""
    with pytest.raises(SystemExit) as ended:
        step()
    assert ended.value.code == 3


def test_restarted_head_node_keeps_its_claim(
    start: Callable[[str], Any], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    head = start("one")
    head.claim()
    start("one").claim()
    head.release()
    head.claim()
    first, *others = capsys.readouterr().out.split()
    assert first
    assert others == [first, first]
    assert clock.now == 0


def test_running_head_node_keeps_the_backups(
    start: Callable[[str], Any], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = start("one"), start("two")
    one.claim()
    clock.meanwhile = lambda: one.renew() if clock.now % 60 < 3 else None
    _assert_refused(two.claim)
    assert clock.now < 70
    message = capsys.readouterr().err
    assert "belong to another head, one," in message
    assert "`ray down`" in message
    assert "cluster_name" in message
    one.check()
    one.renew()


def test_lost_head_node_is_replaced_and_cannot_claim_again(
    start: Callable[[str], Any], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = start("one"), start("two")
    one.claim()
    two.claim()
    assert 180 <= clock.now < 190
    first, second = capsys.readouterr().out.split()
    assert first != second
    for step in (one.check, one.renew):
        _assert_refused(step)
    one.release()  # no effect: it no longer owns the claim
    two.check()
    clock.meanwhile = two.renew
    _assert_refused(one.claim)


def test_released_backups_are_claimed_without_waiting(
    start: Callable[[str], Any], clock: Clock
) -> None:
    one, two = start("one"), start("two")
    one.claim()
    one.release()
    one.renew()  # a late timer does not renew a released claim
    two.claim()
    assert clock.now == 0
    two.check()


@pytest.mark.parametrize("before", ["nobody", "gone", "given up"])
def test_one_of_two_concurrent_claims_is_refused(
    start: Callable[[str], Any], clock: Clock, before: str
) -> None:
    one, two, three = start("one"), start("two"), start("three")
    if before != "nobody":
        three.claim()
    if before == "given up":
        three.release()
    read, write = one.read, one.write
    concurrent = [two.claim]  # called between the read and the write of the first claim

    def write_late(owner: object, version: str) -> bool:
        if concurrent:
            concurrent.pop()()
            clock.meanwhile = two.renew
        return bool(write(owner, version))

    one.write = write_late
    _assert_refused(one.claim)
    assert read()[0].head == "two"


def test_renewal_does_not_overwrite_a_later_claim(
    start: Callable[[str], Any], clock: Clock
) -> None:
    one, two = start("one"), start("two")
    one.claim()
    write = one.write

    def write_late(owner: object, version: str) -> bool:
        two.claim()
        return bool(write(owner, version))

    one.write = write_late
    _assert_refused(one.renew)
    two.check()


def test_write_with_a_lost_response_counts_as_successful(start: Callable[[str], Any]) -> None:
    """boto3 repeats the write, and the object then differs from the version that was read."""
    one = start("one")
    put = one.STORE.put_object

    def twice(**arguments: Any) -> Any:
        put(**arguments)
        return put(**arguments)

    one.STORE = SimpleNamespace(
        put_object=twice, get_object=one.STORE.get_object, meta=one.STORE.meta
    )
    one.claim()
    one.check()
    assert json.loads(boto3.client("s3").get_object(**one.OBJECT)["Body"].read())["head"] == "one"
