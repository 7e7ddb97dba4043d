"""Options of commands that read the tracking store."""

import argparse


def add_tracking_option(parser: argparse.ArgumentParser) -> None:
    """Add `--tracking`, for commands that only read the tracking store."""
    parser.add_argument(
        "--tracking",
        metavar="URI",
        help="the tracking server's address, or its replica in a bucket, which needs no server: "
        "s3://BUCKET/tracking/NAME, or at an earlier moment with @2026-11-28T10:00:00Z at the end "
        "(default: MLFLOW_TRACKING_URI, else the storage)",
    )
