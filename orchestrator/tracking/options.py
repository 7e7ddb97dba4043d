"""Options of commands that read the tracking store."""

import argparse


def add_report_options(parser: argparse.ArgumentParser, storage: str = "") -> None:
    """Add `--storage`, `--tracking` and `--set`, for commands that read a study's report.

    storage: what else to say of `--storage`.
    """
    parser.add_argument(
        "--storage",
        default="storage",
        metavar="DIR|URI",
        help="the study's storage, with the tracking store unless MLFLOW_TRACKING_URI is set"
        f"{storage} (default: ./storage)",
    )
    add_tracking_option(parser)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a key, as in the orchestrator.sweep command that ran the study; repeatable",
    )


def add_tracking_option(parser: argparse.ArgumentParser) -> None:
    """Add `--tracking`, for commands that only read the tracking store."""
    parser.add_argument(
        "--tracking",
        metavar="URI",
        help="the tracking server's address, or its replica in a bucket, which needs no server: "
        "s3://BUCKET/tracking/NAME, or at an earlier moment with @2026-11-28T10:00:00Z at the end "
        "(default: MLFLOW_TRACKING_URI, else the storage)",
    )
