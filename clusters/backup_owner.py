"""Whose the tracking server's backups are, so that no two heads write to one place.

    python3 backup_owner.py claim | renew | check | release

An object beside the backups names the head that they belong to. A head at work rewrites it every
minute (`renew`) and says in it when it ends (`release`). A head that begins (`claim`) and finds
another's name watches for three minutes: if the object changes, the other is at work, and the
claim is refused; if not, the other is gone, and the backups are taken over. So no two clocks are
compared. A write goes through only where the object is still what was read before; of two heads
that claim at once, one is refused.

`claim` prints an identifier: the same for a head that starts again, another one after each change
of hands. Exit status 3 says that the backups are another head's. The environment says where:
BACKUP (s3://BUCKET/PREFIX), HEAD (this machine's name), ENDPOINT (for other stores than AWS).
"""

import json
import os
import sys
import time
import uuid
from dataclasses import asdict, dataclass, replace
from typing import Any, NoReturn

import boto3
from botocore.exceptions import ClientError

REFUSED = 3  # exit status
PATIENCE = float(os.environ.get("PATIENCE", "180"))  # seconds; a head renews every 60
HEAD = os.environ["HEAD"]
BACKUP = os.environ["BACKUP"]
BUCKET, _, PREFIX = BACKUP.removeprefix("s3://").partition("/")
OBJECT = {"Bucket": BUCKET, "Key": f"{PREFIX}/owner"}
STORE = boto3.client("s3", endpoint_url=os.environ.get("ENDPOINT") or None)


@dataclass(frozen=True)
class Owner:
    """What the object says; `beat` differs at each writing, so that the object changes."""

    head: str
    claim: str
    at_work: bool = True
    beat: str = ""


def read() -> tuple[Owner | None, str]:
    """The owner, None where the backups are nobody's, and the object's version (its ETag)."""
    try:
        found = STORE.get_object(**OBJECT)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None, ""
        raise
    return Owner(**json.loads(found["Body"].read())), found["ETag"]


def write(owner: Owner, version: str) -> bool:
    """Whether the object was still at `version` (empty: absent), and says `owner` now."""
    owner = replace(owner, beat=uuid.uuid4().hex)
    condition = {"If-Match": version} if version else {"If-None-Match": "*"}

    def add(params: dict[str, Any], **_: object) -> None:
        params["headers"].update(condition)

    # As an argument of put_object only younger versions of boto3 take a condition.
    STORE.meta.events.register("before-call.s3.PutObject", add, "condition")
    try:
        STORE.put_object(**OBJECT, Body=json.dumps(asdict(owner)).encode())
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 409, 412):
            raise
        return read()[0] == owner  # boto3 may have tried again what had gone through
    finally:
        STORE.meta.events.unregister("before-call.s3.PutObject", add, "condition")
    return True


def refuse(owner: Owner) -> NoReturn:
    print(
        f"The backups in {BACKUP} belong to another head, {owner.head}, and two cannot share them. "
        "End the other cluster (`ray down`), or give this one a `cluster_name` or a bucket of its "
        'own in cluster.yaml. See docs/aws.md, "Two heads on one bucket".',
        file=sys.stderr,
    )
    sys.exit(REFUSED)


def claim() -> None:
    watched, since = "", 0.0
    while True:
        owner, version = read()
        own = owner is not None and owner.head == HEAD
        if owner is not None and not own and owner.at_work:
            if watched and version != watched:
                refuse(owner)
            if not watched:
                watched, since = version, time.monotonic()
                print(
                    f"{owner.head} has the backups; {PATIENCE:.0f} s to see whether it is at work",
                    file=sys.stderr,
                )
            if time.monotonic() - since < PATIENCE:
                time.sleep(PATIENCE / 60)
                continue
        mine = Owner(HEAD, owner.claim if owner is not None and own else uuid.uuid4().hex)
        if write(mine, version):
            print(mine.claim)
            return


def check() -> None:
    """What is nobody's may be written to."""
    owner, _ = read()
    if owner is not None and owner.head != HEAD:
        refuse(owner)


def renew() -> None:
    while True:
        owner, version = read()
        if owner is None:
            owner = Owner(HEAD, uuid.uuid4().hex)
        if owner.head != HEAD:
            refuse(owner)
        if write(owner, version):
            return


def release() -> None:
    while True:
        owner, version = read()
        if owner is None or owner.head != HEAD or not owner.at_work:
            return
        if write(replace(owner, at_work=False), version):
            return


if __name__ == "__main__":
    {"claim": claim, "renew": renew, "check": check, "release": release}[sys.argv[1]]()
