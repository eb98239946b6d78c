"""The audit log: who did what, tamper-evident by a hash chain and still erasable where it speaks of people.

``prepare(db)`` once, then ``append(db, session, entry)`` in the transaction of what is described, or ``record(db, entry)``.
``verify(db)`` is separate code that reads it all back. Never deletes or rewrites an entry.
"""

from mongo_ops.audit.log import (
    AUDIT_LOG,
    HeadFaultError,
    NothingToResealError,
    NotPreparedError,
    append,
    append_all,
    erase_personal,
    prepare,
    record,
    reseal,
)
from mongo_ops.audit.model import AuditEntry, Fault, Head, Verification
from mongo_ops.audit.verify import verify

__all__ = [
    "AUDIT_LOG",
    "AuditEntry",
    "Fault",
    "Head",
    "HeadFaultError",
    "NotPreparedError",
    "NothingToResealError",
    "Verification",
    "append",
    "append_all",
    "erase_personal",
    "prepare",
    "record",
    "reseal",
    "verify",
]
