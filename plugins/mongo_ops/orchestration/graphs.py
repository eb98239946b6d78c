"""Wire the tasks of a run of migrations: one task per migration file, found on disk when the DAG is parsed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import groupby

from airflow.sdk import TaskGroup, TriggerRule, chain

from mongo_ops.migrations.discover import usable
from mongo_ops.migrations.model import MigrationFile
from mongo_ops.orchestration.lineage import collection_asset
from mongo_ops.orchestration.migrate import FORWARD, LeaseOperator, MigrationOperator, ReleaseOperator, VerifyOperator
from mongo_ops.orchestration.operators import RETRIES
from mongo_ops.settings import include_folder


def migration_tasks(direction: str) -> list[MigrationOperator]:
    """Return one task per migration in the groups ``core`` and ``advanced``, chained in the order in which they run.

    Where core migrations follow advanced ones, the later ones form a group of their own (``core_2``).
    Repeatable migrations come last going forward, and first going back.
    """
    files = sorted(
        usable(include_folder() / "migrations"), key=lambda file: (file.migration.run_always, int(file.version))
    )
    if direction != FORWARD:
        files.reverse()
    tasks: list[MigrationOperator] = []
    seen: Counter[str] = Counter()
    for name, segment in groupby(files, key=lambda file: file.group):
        seen[name] += 1
        group_id = name if seen[name] == 1 else f"{name}_{seen[name]}"  # edges there and back would make groups a cycle
        group = TaskGroup(group_id, tooltip=_GROUPS[name])
        tasks += [_task(file, group, direction) for file in segment]
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
    lease = LeaseOperator(task_id="lease", direction=direction, **RETRIES)
    release = ReleaseOperator(task_id="release", **RETRIES)
    lease.as_setup()  # type: ignore[no-untyped-call]
    release.as_teardown(setups=lease)
    return lease, release


def within_lease(
    lease: LeaseOperator, work: Sequence[MigrationOperator], last: VerifyOperator, release: ReleaseOperator
) -> None:
    """Put all work between setup and teardown."""
    steps = [*work, last]
    steps[0].trigger_rule = TriggerRule.ALL_SUCCESS  # Airflow demands it of what follows a setup
    chain(lease, steps[0])
    chain(steps[-2] if work else lease, last, release)
