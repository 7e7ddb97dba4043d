"""Which machine may write a replica, and the URIs of Litestream."""

import os
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.tracking.replica import (
    InUseError,
    Replica,
    ReplicaError,
    litestream_url,
    parse_moment,
)


@given(
    st.text("abc@:/-?=.", min_size=1),
    st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-7))])),
)
def test_moment_after_a_uri_is_parsed(uri: str, moment: datetime) -> None:
    text = f"{moment:%Y}".zfill(4) + moment.isoformat()[4:]
    assert parse_moment(f"{uri}@{text}") == (uri, moment)
    assert parse_moment(uri) == (uri, None)


def test_moment_without_an_offset_is_in_utc() -> None:
    expected = datetime(2026, 11, 28, 10, tzinfo=UTC)
    for text in ("2026-11-28T10:00:00", "2026-11-28T10:00:00Z", "2026-11-28T12:00:00+02:00"):
        assert parse_moment(f"s3://bucket/name@{text}") == ("s3://bucket/name", expected)
    with pytest.raises(ReplicaError, match="is not a time such as"):
        parse_moment("s3://bucket/name@2026-11-28T25:00:00Z")


def test_litestream_gets_the_options_of_the_bucket(tmp_path: Path) -> None:
    assert litestream_url("s3://bucket/name", "g") == "s3://bucket/name/g"
    uri = "s3://bucket/name?endpoint_override=localhost:9000&scheme=http&region=here"
    assert litestream_url(uri, "g") == (
        "s3://bucket/name/g?region=here&endpoint=http%3A%2F%2Flocalhost%3A9000&forcePathStyle=true"
    )
    assert litestream_url(str(tmp_path), "g") == f"file://{tmp_path}/g"


def test_machine_is_refused_while_another_one_renews_its_generation(tmp_path: Path) -> None:
    replica = Replica(str(tmp_path))
    first = replica.begin("")
    with pytest.raises(InUseError, match="in use by another machine"):
        replica.begin("")
    assert [each.name for each in replica.generations()] == [first]  # the refused one left nothing
    assert replica.begin(first) > first  # the same machine again

    for record in tmp_path.glob("*.json"):
        os.utime(record, (time.time() - 100,) * 2)
    third = replica.begin("")
    with pytest.raises(InUseError, match="has taken over"):
        replica.renew(first)
    replica.renew(third)
    replica.record(third, "ended")
    assert replica.begin("") > third


def test_claim_of_a_refused_machine_does_not_stop_the_running_one(tmp_path: Path) -> None:
    replica = Replica(str(tmp_path))
    first = replica.begin("")
    replica.record("29991231T000000Z-00000000", "claimed")
    replica.renew(first)
    newest = replica.newest()
    assert newest is not None
    assert newest[0] == first


@pytest.mark.parametrize("machines", [2, 5])
def test_at_most_one_of_several_machines_begins(tmp_path: Path, machines: int) -> None:
    barrier = threading.Barrier(machines)
    begun: list[str] = []

    def begin() -> None:
        barrier.wait()
        with suppress(InUseError):
            begun.append(Replica(str(tmp_path)).begin(""))

    threads = [threading.Thread(target=begin) for _ in range(machines)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(begun) <= 1


def test_generations_are_ordered_even_if_a_clock_is_late(tmp_path: Path) -> None:
    replica = Replica(str(tmp_path))
    replica.record("29991231T000000Z-00000000", "ended")
    assert replica.begin("") > "29991231T000001Z"
