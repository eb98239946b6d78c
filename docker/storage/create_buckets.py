"""Create the two buckets of this stack once, and leave them alone when they exist.

``S3_BUCKET`` holds exports, snapshots and reports: no versions, because an erased export must really be gone.
``S3_ANCHOR_BUCKET`` holds the audit trail's heads: with object lock where the store has it, so that nobody rewrites
them; without it the bucket is created plainly, and the output says so.
"""

# ruff: noqa: INP001 - a script, not a package
from __future__ import annotations

import json
import os
import sys
from typing import Any

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

LOCK_UNKNOWN = {"NotImplemented", "InvalidArgument", "InvalidRequest", "ObjectLockConfigurationNotFoundError"}


def main() -> int:
    """Create what is missing; return 0 when both buckets are there."""
    client = storage()
    create(client, os.environ["S3_BUCKET"])
    create(client, os.environ["S3_ANCHOR_BUCKET"], lock=True)
    return 0


def storage() -> Any:
    """Return an S3 client for the connection that the DAGs use, so that a wrong connection fails here first."""
    connection = json.loads(os.environ["AIRFLOW_CONN_OPS_STORAGE"])
    extra = connection["extra"]
    return boto3.client(
        "s3",
        endpoint_url=extra["endpoint_url"],
        region_name=extra["region_name"],
        aws_access_key_id=connection["login"],
        aws_secret_access_key=connection["password"],
        config=Config(retries={"max_attempts": 10, "mode": "standard"}, **extra["config_kwargs"]),
    )


def create(client: Any, bucket: str, *, lock: bool = False) -> None:
    """Create ``bucket`` unless it exists, with object lock when asked for and known to the store."""
    existing = {entry["Name"] for entry in client.list_buckets()["Buckets"]}
    if bucket not in existing:
        try:
            client.create_bucket(Bucket=bucket, ObjectLockEnabledForBucket=lock)
        except ClientError as error:
            if not lock or error.response["Error"]["Code"] not in LOCK_UNKNOWN:
                raise
            client.create_bucket(Bucket=bucket)
    state = "exists" if bucket in existing else "created"
    sys.stdout.write(f"Bucket {bucket} {state}{lock_note(client, bucket) if lock else ''}.\n")


def lock_note(client: Any, bucket: str) -> str:
    """Say whether the store really has object lock switched on for ``bucket``."""
    try:
        answer = client.get_object_lock_configuration(Bucket=bucket)
    except ClientError:
        return " WITHOUT object lock: this store does not offer it"
    return f", object lock {answer['ObjectLockConfiguration'].get('ObjectLockEnabled', 'unknown').lower()}"


if __name__ == "__main__":
    sys.exit(main())
