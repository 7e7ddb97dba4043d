"""Records which head owns the tracking server's backups, so that two heads never write to the same.

    python3 backup_owner.py claim | renew | check | release

An object in the bucket names the owner. A running head rewrites it every minute (`renew`) and marks
it when it ends (`release`). A head that starts (`claim`) and finds another owner watches the object
for three minutes: if it changes, the owner is running, and the claim is refused; otherwise the
owner is gone, and the claimant takes over the backups. This compares no clocks. Writes are
conditional on the version that was read, so that of two simultaneous claims one is refused.

`claim` prints an identifier that stays the same when a head restarts and changes with the owner.
Exit status 3 means that another head owns the backups. Environment variables: BACKUP
(s3://BUCKET/PREFIX), HEAD (this machine's name), ENDPOINT (URL of a store other than AWS).
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
    """The content of the object; `beat` differs in each write, so that the object changes."""

    head: str
    claim: str
    at_work: bool = True
    beat: str = ""


def read() -> tuple[Owner | None, str]:
    """Return the owner, or None if there is none, and the object's version (its ETag)."""
    try:
        found = STORE.get_object(**OBJECT)
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return None, ""
        raise
    return Owner(**json.loads(found["Body"].read())), found["ETag"]


def write(owner: Owner, version: str) -> bool:
    """Write `owner` if the object is still at `version` (empty: absent). Return whether it was."""
    owner = replace(owner, beat=uuid.uuid4().hex)
    condition = {"If-Match": version} if version else {"If-None-Match": "*"}

    def add(params: dict[str, Any], **_: object) -> None:
        params["headers"].update(condition)

    # Only newer versions of boto3 accept the condition as an argument of put_object.
    STORE.meta.events.register("before-call.s3.PutObject", add, "condition")
    try:
        STORE.put_object(**OBJECT, Body=json.dumps(asdict(owner)).encode())
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] not in (404, 409, 412):
            raise
        return read()[0] == owner  # boto3 may have retried a write that had succeeded
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
    """Refuse if another head owns the backups; having no owner is fine."""
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
