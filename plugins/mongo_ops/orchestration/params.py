"""The parameters of the DAGs, as forms that a person understands. Read at parse time: files only, no database."""

from __future__ import annotations

from airflow.sdk import Param

from mongo_ops.settings import load_environments


def environment(*, nightly: bool = False) -> Param:
    """Which database: a choice of the environments in environments.yaml, the first by default; of a scheduled DAG the one marked so."""
    environments = load_environments()
    marked = [name for name, value in environments.items() if nightly and value.nightly]
    labels = {
        name: name + (" (protected: a second person must approve)" if value.protected else "")
        for name, value in environments.items()
    }
    return Param(
        next(iter([*marked, *environments])), type="string", enum=list(environments), values_display=labels, title="Environment",
        description="The database to work on, as named in include/environments.yaml.",
    )  # fmt: skip


def plan_only() -> Param:
    """Dry run or not."""
    return Param(
        False, type="boolean", title="Plan only (dry run)",
        description="Show what would happen, with counts, and stop. Writes nothing to the database.",
    )  # fmt: skip


def version(*, required: bool, what: str) -> Param:
    """A migration's version."""
    kinds = "string" if required else ["string", "null"]
    default = {} if required else {"default": None}
    return Param(
        **default, type=kinds, pattern=r"^\d{1,}(_[a-z0-9_]+)?$", title="Target version", description=what,
    )  # fmt: skip


def rehearse() -> Param:
    """Rehearse first or not."""
    return Param(
        False, type="boolean", title="Rehearse first", section="Care",
        description="After the plan, run the pending migrations up, down and up on a sampled copy: a scratch database on the same server, dropped at the end. Also with plan only.",
    )  # fmt: skip


def reason() -> Param:
    """Why, for the audit log."""
    return Param(
        None, type=["string", "null"], maxLength=500, title="Reason",
        description="Why this run is needed. Goes into the audit log; name no person and no personal data here.",
    )  # fmt: skip


def place(what: str) -> Param:
    """A folder in object storage."""
    return Param(None, type=["string", "null"], title="Destination", description=what)


def storage_connection() -> Param:
    """The Airflow connection of an object store."""
    return Param(
        None, type=["string", "null"], title="Storage connection", section="Storage",
        description="The Airflow connection with the store's credentials and endpoint. Empty: those of the environment.",
    )  # fmt: skip
