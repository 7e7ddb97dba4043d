"""Whose the tracking server's backups are, so that no two heads write to one place.

    python3 backup_owner.py claim | renew | check | release

An object beside the backups names their owner, and a head that lives rewrites it every minute. Who
finds another's name there waits for three minutes: if the object changes the other lives, and the claim
is refused; if not the other is gone. No clocks are compared. The environment says where: BACKUP
(s3://BUCKET/PREFIX), HEAD (this machine's name for itself), ENDPOINT (for other stores than AWS).
"""

import os
import sys
import time
import uuid

import boto3
from botocore.exceptions import ClientError

PATIENCE = float(os.environ.get("PATIENCE", "180"))  # seconds; a head renews every 60
HEAD = os.environ["HEAD"]
BUCKET, _, PREFIX = os.environ["BACKUP"].removeprefix("s3://").partition("/")
KEY = f"{PREFIX}/owner"
REFUSED = 3  # exit status, apart from whatever else may go wrong
STORE = boto3.client("s3", endpoint_url=os.environ.get("ENDPOINT") or None)


def read() -> str:
    """What the object says; empty where there is none."""
    try:
        return STORE.get_object(Bucket=BUCKET, Key=KEY)["Body"].read().decode()
    except ClientError as error:
        if error.response["Error"]["Code"] == "NoSuchKey":
            return ""
        raise


def write() -> None:
    """This head's name, different each time."""
    STORE.put_object(Bucket=BUCKET, Key=KEY, Body=f"{HEAD} {uuid.uuid4()}".encode())


def owner(found: str) -> str:
    return found.split(" ")[0].strip()


def refuse(found: str) -> None:
    print(
        f"the backups in s3://{BUCKET}/{PREFIX} belong to another head, {owner(found)}: "
        "docs/cluster.md, Two heads",
        file=sys.stderr,
    )
    sys.exit(REFUSED)


def claim() -> None:
    found = read()
    if owner(found) not in ("", HEAD):
        print(f"{owner(found)} has the backups; {PATIENCE:.0f} s to see if it lives", flush=True)
        time.sleep(PATIENCE)
        later = read()
        if later != found and owner(later) not in ("", HEAD):
            refuse(later)
    write()
    time.sleep(PATIENCE / 60)  # of two that claim at once, the later one has it
    check()


def check() -> None:
    """An archive that is nobody's may be written to."""
    if owner(found := read()) not in ("", HEAD):
        refuse(found)


def renew() -> None:
    check()
    write()


def release() -> None:
    if owner(read()) == HEAD:
        STORE.delete_object(Bucket=BUCKET, Key=KEY)


{"claim": claim, "renew": renew, "check": check, "release": release}[sys.argv[1]]()
