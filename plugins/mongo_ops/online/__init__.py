"""Online migrations: change a collection under its writers, and lose no write. What spec files import.

A spec file (``include/online/001_what_it_does.py``) holds a docstring and one value::

    from mongo_ops.online import OnlineMigration

    migration = OnlineMigration(
        collection="tracks",
        transform=[{"$set": {"duration_seconds": {"$divide": ["$duration_ms", 1000]}}}],
        fields=("duration_seconds",),
    )

docs/online.md describes the modes, the fences and what each phase does.
"""

from mongo_ops.online.model import (
    Contract,
    Fence,
    FenceKind,
    Limits,
    OnlineMigration,
    TargetOptions,
    Views,
)

__all__ = ["Contract", "Fence", "FenceKind", "Limits", "OnlineMigration", "TargetOptions", "Views"]
