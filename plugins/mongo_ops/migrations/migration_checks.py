"""What the pytest plugin checks of a migration, on databases that it makes and drops: there and back, twice, and killed everywhere.

Kills are simulated inside the process: at the beginning, right before the commit and right after the commit of every transaction,
and before every step that no transaction guards, an exception that nothing catches ends the run; the next one resumes.
"""

from __future__ import annotations

import contextlib
import copy
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from unittest import mock

import pytest
from bson import ObjectId

from mongo_ops.migrations import engine, history, picture
from mongo_ops.migrations.discover import discover
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.model import MigrationFile, State
from mongo_ops.migrations.operations.base import Mode
from mongo_ops.migrations.plan import version_number
from mongo_ops.migrations.run import Run
from mongo_ops.mongo import batches
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.mongo.documents import digest
from mongo_ops.mongo.lease import Holder, Lease
from mongo_ops.mongo.throttle import Limits
from mongo_ops.settings import Environment
from mongo_ops.storage import open_folder

if TYPE_CHECKING:
    from pymongo.client_session import ClientSession

T = TypeVar("T")
Seed = Mapping[str, Sequence[Mapping[str, Any]]]
Act = Callable[[Run, MigrationFile], Any]
OCCASION = Occasion(Actor("pytest", "system"), "pytest")
FIRST_BATCH = 10
MOST_KILLS = 2_000


class KilledError(BaseException):
    """Stands for ``kill -9``: not an ``Exception``, so that nothing records that the run stopped."""


class FragileLease(Lease):
    """A held lease whose run dies at the first place where it has not died before."""

    def __init__(self, held: Lease, deaths: set[str]) -> None:
        self.__dict__.update(held.__dict__)
        self.deaths = deaths
        self.passed: Counter[str] = Counter()

    def check(self) -> None:
        """Die, or go on to work that no transaction guards."""
        self._perhaps_die("check")
        super().check()

    def transaction(self, body: Callable[[ClientSession], T]) -> T:
        """Die before the transaction, at the end of its body, or after its commit."""
        name = getattr(body, "__qualname__", "")

        def fragile(session: ClientSession) -> T:
            result = body(session)
            self._perhaps_die(f"{name}, before the commit")
            return result

        self._perhaps_die(f"{name}, before it began")
        result = super().transaction(fragile)
        self._perhaps_die(f"{name}, after the commit")
        return result

    def _perhaps_die(self, where: str) -> None:
        at = f"{where}, at {self._progress()}"
        place = f"{at}, time {self.passed[at]}"
        self.passed[at] += 1
        if place not in self.deaths:
            self.deaths.add(place)
            raise KilledError(place)

    def _progress(self) -> str:
        """Return how far the work has come, as the database knows it; attempts and times do not count."""
        records = self.db[history.MIGRATIONS].find({}, {"state": 1, "operations.state": 1}).sort("_id", 1)
        points = self.db[batches.CHECKPOINTS].find({}, {"batches": 1, "finished": 1}).sort("_id", 1)
        return digest({"records": list(records), "points": list(points)})[:12]


@dataclass
class Place:
    """A database of its own, brought to right before the migration, seed included."""

    target: Target
    losses: Losses
    file: MigrationFile
    before: Mapping[str, picture.Face] = field(default_factory=dict)

    @property
    def why_irreversible(self) -> str | None:
        """Why the migration cannot be undone, or None."""
        return self.file.migration.why_irreversible()

    @contextmanager
    def run(self, deaths: set[str] | None = None) -> Iterator[Run]:
        """Yield a run under the lease; a fragile one when places of death are given."""
        with engine.open_run(self.target, OCCASION, self.losses, holder=Holder("pytest"), report=lambda _: None) as run:
            lease = run.lease if deaths is None else FragileLease(run.lease, deaths)
            yield Run(self.target, lease, OCCASION, self.losses, Limits(batch_seconds=1e-9), lambda _: None)

    def do(self, act: Act) -> Any:
        """Do something in a run of its own."""
        with self.run() as run:
            return act(run, self.file)

    def do_although_killed(self, act: Act) -> set[str]:
        """Do something, killed at every place once and resumed each time; return the places."""
        deaths: set[str] = set()
        while len(deaths) < MOST_KILLS:
            with contextlib.suppress(KilledError), self.run(deaths) as run:
                act(run, self.file)
                return deaths
        pytest.fail(
            f"{self.file.name} is not finished after {MOST_KILLS} kills; does each run begin anew?", pytrace=False
        )

    def look(self) -> Mapping[str, picture.Face]:
        """Return what the database looks like."""
        return picture.take(self.target.db)

    def must_look_like(self, wanted: Mapping[str, picture.Face], when: str) -> None:
        """Fail the test, naming the documents, when the database looks otherwise."""
        found = picture.differences(self.target.db, wanted, self.look())
        if found:
            pytest.fail(f"{self.file.name}: {when}: {'; '.join(map(str, found))}", pytrace=False)


@dataclass(frozen=True)
class MigrationCheck:
    """Checks of migrations. ``folder`` holds the files; what destroys documents keeps them below ``tmp``.

    ``seed`` is ``{collection: [document, ...]}``, inserted right before the migration runs, after all those with a lower number;
    validators are bypassed, as for documents from before their time.
    """

    uri: str = field(repr=False)
    folder: Path
    tmp: Path

    def up_down_up(self, version: str, seed: Seed | None = None) -> None:
        """Apply, undo, apply: the same documents and definitions as before, and as after. An irreversible one only goes up."""
        with self._place(version, seed) as place:
            place.do(Run.apply)
            after = place.look()
            if place.why_irreversible:
                pytest.skip(f"{place.file.name} goes up; it cannot be undone: {place.why_irreversible}")
            place.do(Run.revert)
            place.must_look_like(place.before, "undoing it does not lead back")
            place.do(Run.apply)
            place.must_look_like(after, "applying it again gives something else")

    def idempotent(self, version: str, seed: Seed | None = None) -> None:
        """Apply twice: the second time changes nothing; nor does its last operation when a crash has lost its record."""
        with self._place(version, seed) as place:
            place.do(Run.apply)
            after = place.look()
            again = place.do(Run.apply)
            if not place.file.migration.run_always and not again.already:
                pytest.fail(f"{place.file.name} ran a second time", pytrace=False)
            place.must_look_like(after, "applying it twice changes more than applying it once")
            if _lose_last_record(place):
                place.do(Run.apply)
                place.must_look_like(
                    after, "its last operation, repeated after a crash before its record, changes more"
                )

    def survives_kills(self, version: str, seed: Seed | None = None) -> None:
        """Kill it everywhere and resume: the result is that of an undisturbed run; so too for undoing it."""
        seed = _with_ids(seed)
        with self._place(version, seed) as calm, self._place(version, seed) as place:
            calm.do(Run.apply)
            wanted = calm.look()
            with mock.patch.object(batches, "FIRST_SIZE", FIRST_BATCH):
                deaths = place.do_although_killed(Run.apply)
            _insist_on_same(place, wanted, f"killed at {len(deaths)} places and resumed, it gives something else")
            if place.why_irreversible:
                return
            with mock.patch.object(batches, "FIRST_SIZE", FIRST_BATCH):
                deaths = place.do_although_killed(Run.revert)
            place.must_look_like(
                place.before, f"killed at {len(deaths)} places while being undone, it does not lead back"
            )

    @contextmanager
    def _place(self, version: str, seed: Seed | None) -> Iterator[Place]:
        """Make a database, apply what comes before the migration, insert the seed; drop it in the end."""
        files = discover(self.folder)
        file = next((one for one in files if int(one.version) == version_number(str(version))), None)
        if file is None:
            pytest.fail(f"There is no migration {version} in {self.folder}.", pytrace=False)
        name = f"mongo_ops_test_{uuid.uuid4().hex[:12]}"
        environment = Environment((file.migration.environments or ("development",))[0], "pytest", database=name)
        with connect(ConnectionSpec("pytest", self.uri, "the test server", name), environment) as target:
            place = Place(target, Losses(open_folder((self.tmp / name).as_uri())), file)
            try:
                with place.run() as run:
                    for one in files:
                        if int(one.version) < int(file.version) and one.migration.applies_to(environment.name):
                            run.apply(one)
                for collection, documents in (seed or {}).items():
                    ours = [dict(document) for document in copy.deepcopy(documents)]
                    target.db[collection].insert_many(ours, bypass_document_validation=True)
                place.before = place.look()
                yield place
            finally:
                target.client.drop_database(name)


def _lose_last_record(place: Place) -> bool:
    """Set the record back to where a crash between the last operation and its record leaves it; say whether that can happen."""
    migration = place.file.migration
    last = len(migration.operations) - 1
    if migration.in_one_transaction or migration.run_always or migration.operations[last].mode is Mode.TRANSACTION:
        return False
    lost = {"state": State.RUNNING.value, f"operations.{last}.state": "running"}
    place.target.db[history.MIGRATIONS].update_one({"_id": place.file.name}, {"$set": lost})
    return True


def _with_ids(seed: Seed | None) -> Seed:
    """Give every document an ``_id``, so that two databases can hold the same ones."""
    return {
        name: [{"_id": ObjectId(), **document} for document in documents] for name, documents in (seed or {}).items()
    }


def _insist_on_same(place: Place, wanted: Mapping[str, picture.Face], when: str) -> None:
    """Compare with another database's picture: by digests only, since its documents are not here."""
    found = place.look()
    names = sorted({*wanted, *found})
    plain = [{name: _facts(one.get(name)) for name in names} for one in (wanted, found)]
    different = [name for name in names if plain[0][name] != plain[1][name]]
    if different:
        told = ", ".join(
            f"{name} ({plain[0][name][0]:,} documents undisturbed, {plain[1][name][0]:,} now)" for name in different
        )
        pytest.fail(f"{place.file.name}: {when} in {told}", pytrace=False)


def _facts(face: picture.Face | None) -> tuple[int, str, str]:
    return (face.count, face.documents, face.definition) if face else (0, "", "")
