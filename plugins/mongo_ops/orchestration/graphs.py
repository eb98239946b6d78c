"""Wire the tasks of a run of migrations: one task per migration file, found on disk when the DAG is parsed."""

from __future__ import annotations

from collections.abc import Sequence

from airflow.sdk import TaskGroup, chain

from mongo_ops.migrations.discover import discover
from mongo_ops.migrations.model import MigrationFile
from mongo_ops.orchestration.lineage import collection_asset
from mongo_ops.orchestration.migrate import FORWARD, LeaseOperator, MigrationOperator, ReleaseOperator
from mongo_ops.orchestration.operators import RETRIES
from mongo_ops.settings import include_folder


def migration_tasks(direction: str) -> list[MigrationOperator]:
    """Return one task per migration in the groups ``core`` and ``advanced``, chained in the order in which they run.

    Repeatable migrations come last going forward, and first going back.
    """
    files = sorted(discover(include_folder() / "migrations"), key=lambda file: (file.migration.run_always, int(file.version)))
    if direction != FORWARD:
        files.reverse()
    groups = {name: TaskGroup(name, tooltip=tip) for name, tip in _GROUPS.items()}
    tasks = [_task(file, groups[file.group], direction) for file in files]
    chain(*tasks)
    return tasks


_GROUPS = {
    "core": "Migrations of the core model: users, artists, tracks, playlists, analytics",
    "advanced": "Migrations of the advanced model: AI content, audit, security, consent, places, languages, versions",
}


def _task(file: MigrationFile, group: TaskGroup, direction: str) -> MigrationOperator:
    return MigrationOperator(
        task_id=file.name,
        task_group=group,
        migration=file.name,
        direction=direction,
        trigger_rule="none_failed",
        doc_md=file.docstring,
        inlets=[collection_asset(name) for name in file.reads()],
        outlets=[collection_asset(name) for name in file.writes()],
        **RETRIES,
    )


def lease_tasks(direction: str) -> tuple[LeaseOperator, ReleaseOperator]:
    """Return the setup that takes the lease and the teardown that gives it back."""
    lease = LeaseOperator(task_id="lease", direction=direction, trigger_rule="none_failed", **RETRIES)
    release = ReleaseOperator(task_id="release", **RETRIES)
    release.as_teardown(setups=lease.as_setup())
    return lease, release


def within_lease(lease: LeaseOperator, work: Sequence[MigrationOperator], last: object, release: ReleaseOperator) -> None:
    """Put all work between setup and teardown."""
    chain(lease, *([work[0]] if work else []))
    chain(*([work[-1]] if work else [lease]), last, release)
