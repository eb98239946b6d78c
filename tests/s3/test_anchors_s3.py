"""Anchors in a bucket: written once, found again, never overwritten."""

from __future__ import annotations

import pytest

from mongo_ops import audit
from mongo_ops.audit import anchors
from mongo_ops.storage import AlreadyWrittenError, create


def test_anchors_in_a_bucket_are_written_once_and_found_again(target, bucket):
    entry = audit.AuditEntry(action="a", entity_type="t", environment="development", result="done")
    audit.record(target.db, entry)
    first = anchors.anchor(target, bucket / "anchors")
    audit.record(target.db, entry)
    second = anchors.anchor(target, bucket / "anchors")

    assert [(one.newest, one.seen.head_seq, one.written is not None) for one in first] == [(None, 1, True)]
    assert [(one.newest.seq, one.seen.head_seq, one.written is not None) for one in second] == [(1, 2, True)]
    where = anchors.place(bucket / "anchors", target, "audit_log")
    (one, other) = sorted(path.name for path in where.iterdir())
    with pytest.raises(AlreadyWrittenError):
        create(where / one, b"{}")
    assert anchors.newest(where).seq == 2
    assert other.startswith("0" * 19 + "2-")
