"""clusters/backup_owner.py: one head at a time has the backups, whatever comes between."""

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
    """Time that passes only where somebody waits, and what happens meanwhile."""

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
    """The program as a head of some name has it."""
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


def _refused(step: Callable[[], None]) -> None:
    with pytest.raises(SystemExit) as ended:
        step()
    assert ended.value.code == 3


def test_a_head_that_starts_again_keeps_its_claim(
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


def test_a_head_at_work_keeps_the_backups(
    start: Callable[[str], Any], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = start("one"), start("two")
    one.claim()
    clock.meanwhile = lambda: one.renew() if clock.now % 60 < 3 else None
    _refused(two.claim)
    assert clock.now < 70
    said = capsys.readouterr().err
    assert "belong to another head, one," in said
    assert "`ray down`" in said
    assert "cluster_name" in said
    one.check()
    one.renew()


def test_a_head_that_is_gone_is_followed_and_cannot_come_back(
    start: Callable[[str], Any], clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = start("one"), start("two")
    one.claim()
    two.claim()
    assert 180 <= clock.now < 190
    first, second = capsys.readouterr().out.split()
    assert first != second
    for step in (one.check, one.renew):
        _refused(step)
    one.release()  # without effect: it is not its own
    two.check()
    clock.meanwhile = two.renew
    _refused(one.claim)


def test_what_was_given_up_is_had_at_once(start: Callable[[str], Any], clock: Clock) -> None:
    one, two = start("one"), start("two")
    one.claim()
    one.release()
    one.renew()  # a timer that comes late does not take it back
    two.claim()
    assert clock.now == 0
    two.check()


@pytest.mark.parametrize("before", ["nobody", "gone", "given up"])
def test_of_two_that_claim_at_once_one_is_refused(
    start: Callable[[str], Any], clock: Clock, before: str
) -> None:
    one, two, three = start("one"), start("two"), start("three")
    if before != "nobody":
        three.claim()
    if before == "given up":
        three.release()
    read, write = one.read, one.write
    between = [two.claim]  # after the first one has read, and before it writes

    def write_late(owner: object, version: str) -> bool:
        if between:
            between.pop()()
            clock.meanwhile = two.renew
        return bool(write(owner, version))

    one.write = write_late
    _refused(one.claim)
    assert read()[0].head == "two"


def test_a_renewal_does_not_undo_a_takeover(start: Callable[[str], Any], clock: Clock) -> None:
    one, two = start("one"), start("two")
    one.claim()
    write = one.write

    def write_late(owner: object, version: str) -> bool:
        two.claim()
        return bool(write(owner, version))

    one.write = write_late
    _refused(one.renew)
    two.check()


def test_a_write_whose_answer_was_lost_counts(start: Callable[[str], Any]) -> None:
    """boto3 tries it again, and the second time the object is no longer what was read."""
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
