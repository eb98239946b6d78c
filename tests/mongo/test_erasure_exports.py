"""Exports lose the people who are erased: found wherever they were written, written anew whole, with nothing of the old files left."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pyarrow.parquet as pq
import pytest
import zstandard
from bson.raw_bson import RawBSONDocument
from isal import isal_zlib
from tests.mongo.erasure_people import ANN, BOB, JOANN, KEYS, Course, Traces, database, oid, plant
from tests.mongo.erasure_runner import CONTEXT, DEADLINE
from tests.people import GRACE, keyring

from mongo_ops import storage
from mongo_ops.erasure import export_inspection, holds
from mongo_ops.erasure.inspection import Inspection, inspect
from mongo_ops.erasure.model import STAGES
from mongo_ops.erasure.plan import as_value, of_value
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.settings import Environment
from mongo_ops.storage import open_folder, versions
from mongo_ops.transfer import engine as transfers
from mongo_ops.transfer import manifest, rewriting
from mongo_ops.transfer.model import Edge, Part
from mongo_ops.transfer.whereabouts import Exports

NAMES = (
    "users",
    "artists",
    "tracks",
    "playlists",
    "versioning",
    "ai_content",
    "analytics",
    "security_events",
    "audit_log",
)


class Exporting(Course):
    """A course whose engine knows exports."""

    @property
    def engine(self):
        known = Exports(self.db, lambda uri, connection: open_folder(uri, connection=connection))
        return replace(super().engine, exports=known)

    def export(self, folder, *names, run_id="run 1", cut=(), connection=None, **options):
        """Export collections and return the plan of it."""
        request = transfers.ExportRequest(collections=names or NAMES, **options)
        plan = transfers.plan_export(self.target, folder, request, connection)
        plan = replace(plan, parts=cut or plan.parts)
        for part in plan.parts:
            transfers.export_part(self.target, folder, plan, part.number, run_id=run_id, report=lambda _: None)
        transfers.finish_export(self.target, folder, plan, run_id=run_id)
        return plan

    def begun(self, request=None):
        plan = self.engine.plan(request or self.receive())
        self.engine.hold()
        self.engine.begin(plan)
        return plan

    def ended(self, plan):
        """Go on from the objects stage to the end; return the request's state."""
        for rule in (one for stage in STAGES for one in plan.stage(stage)):
            self.engine.carry_out(plan, rule)
        self.finish(plan)
        self.engine.release()
        return self.state(plan.run_id)


@pytest.fixture(scope="module")
def model(replica_set, tmp_path_factory):
    with database(replica_set, tmp_path_factory.mktemp("model")) as target:
        yield Exporting(target).model()


@pytest.fixture
def course(model, tmp_path):
    at = model.emptied(tmp_path)
    plant(at.db)
    yield at
    model.emptied(tmp_path)  # nobody may be in two databases of a server


@pytest.fixture
def outside(tmp_path):
    """A folder that is not below the environment's storage."""
    return open_folder((tmp_path / "elsewhere" / "export").as_uri())


def files(folder):
    top = Path(folder.path)
    return {str(one.relative_to(top)): one.read_bytes() for one in sorted(top.rglob("*")) if one.is_file()}


def plain(name: str, content: bytes) -> bytes:
    """A file's content without its compression, by other code than the package's; of parquet, all values as text."""
    if name.endswith(".zst"):
        return zstandard.ZstdDecompressor().decompressobj().decompress(content)
    if name.endswith(".gz"):
        return isal_zlib.decompress(content, 31)
    if name.endswith(".parquet"):
        return "\n".join(map(str, pq.read_table(io.BytesIO(content)).to_pylist())).encode()
    return content


def everything(folder) -> bytes:
    return b"\n".join(name.encode() + plain(name, content) for name, content in files(folder).items())


def hidden() -> Traces:
    """Ann's traces, but for the keys of published work and of shared playlists, which may stay."""
    traces = Traces(ANN)
    for key in (ANN.artist, ANN.shared):
        traces.exact.remove(key.binary)
        traces.texts.remove(str(key).encode())
    return traces


def rows(folder, collection):
    """What each row of an export is, raw: documents of bson, lines of jsonl, cells of csv, rows of parquet."""
    found = []
    for name, content in files(folder).items():
        if name.startswith(f"{collection}/"):
            data = plain(name, content)
            if ".bson" in name:
                found += [one.raw for one in bson.decode_iter(data, bson.CodecOptions(RawBSONDocument))]
            elif ".jsonl" in name:
                found += data.splitlines()
            elif ".csv" in name:
                found += [tuple(row) for row in list(csv.reader(io.StringIO(data.decode(), newline="")))[1:]]
            else:
                found += list(map(str, pq.read_table(io.BytesIO(content)).to_pylist()))
    return found


FORMATS = {
    "bson": {"format": "bson.zst"},
    "canonical": {"format": "jsonl", "json_mode": "canonical"},
    "relaxed": {"format": "jsonl.gz", "partitions": 2},
    "csv": {"format": "csv.gz"},
    "parquet": {"format": "parquet"},
}


@pytest.mark.parametrize("kind", FORMATS)
def test_an_export_of_any_format_loses_the_person_and_nobody_else(course, outside, kind):
    course.db.users.insert_one({**course.db.users.find_one({"_id": BOB.user}), "_id": oid(7), "email": "z@example.org"})
    course.export(outside, **FORMATS[kind])
    before, old = {name: rows(outside, name) for name in NAMES}, set(files(outside))
    counts = {one.name: one.content.count for one in manifest.read(outside).collections}
    assert hidden().hit(everything(outside))

    plan = course.begun()
    erased = course.engine.erase_objects(plan)

    assert not hidden().hit(everything(outside))
    seen = transfers.verify_export(outside)
    assert seen.ok, str(seen)
    found = manifest.read(outside)
    after = {name: rows(outside, name) for name in NAMES}
    assert {one.name: one.content.count for one in found.collections} == {name: len(after[name]) for name in NAMES}
    assert len(after["users"]) == counts["users"] - 1
    assert len(after["analytics"]) == counts["analytics"] - 5
    assert len(after["artists"]) == counts["artists"]
    assert set(after["users"]) < set(before["users"])  # byte for byte
    assert set(after["analytics"]) < set(before["analytics"])
    assert len(set(after["tracks"]) - set(before["tracks"])) == 2  # hers, and the one that she is credited on
    assert found.erased == erased.documents > 20
    assert erased.files == 1
    assert found.total.count == sum(map(len, after.values()))
    assert found.total_file_bytes == sum(len(content) for name, content in files(outside).items() if "/" in name)
    rewritten = {part.file for one in found.collections for part in one.parts if "~1." in part.file}
    assert rewritten
    assert set(files(outside)) - old == rewritten
    assert course.ended(plan) == "completed_with_retention"


def test_what_was_written_anew_can_be_imported_and_passes_its_checks(course, outside):
    course.export(outside, "users", "analytics")
    plan = course.begun()
    course.engine.erase_objects(plan)
    assert course.ended(plan) == "completed_with_retention"

    into = {"users": "users_again", "analytics": "analytics_again"}
    loading = transfers.plan_import(course.target, outside, transfers.ImportRequest(collections=into))
    for part in loading.parts:
        transfers.import_part(course.target, outside, loading, part.number, run_id="load", report=lambda _: None)
    done = transfers.finish_import(course.target, loading, outside / "rejects.jsonl", run_id="load")

    assert set(done.verified) == set(into.values())
    assert done.differences == ()
    assert course.db.users_again.distinct("_id") == sorted([BOB.user, JOANN.user])
    assert course.db.analytics_again.distinct("user_id") == sorted([BOB.user, JOANN.user])


def test_filter_and_bounds_that_name_the_person_go_too(course, outside):
    where = {
        "_id": {"$in": [ANN.user, BOB.user, JOANN.user]},
        "email": {"$ne": "x" + ANN.email},
        "phone": {"$ne": ANN.phone},
    }
    course.db.users.update_one({"_id": ANN.user}, {"$unset": {"phone": ""}})
    cut = (Part(0, "users", 0, None, Edge(ANN.user)), Part(1, "users", 1, Edge(ANN.user), Edge(BOB.user)))
    course.export(outside, "users", where=where, cut=(*cut, Part(2, "users", 2, Edge(BOB.user), None)))
    course.db.users.update_one({"_id": ANN.user}, {"$set": {"phone": ANN.phone}})
    path = Path(outside.path) / "manifest.json"
    assert (path.read_text().count(str(ANN.user)), path.read_text().count(str(BOB.user))) == (3, 3)

    plan = course.begun()
    course.engine.erase_objects(plan)

    text = path.read_text()
    assert (text.count(str(ANN.user)), text.count(str(BOB.user)), ANN.phone in text) == (0, 3, False)
    found = manifest.read(outside).collection("users")
    assert [one.content.count for one in found.parts] == [0, 0, 2]
    assert transfers.verify_export(outside).ok
    assert course.ended(plan) == "completed_with_retention"


def test_exports_below_the_storage_are_found_without_a_note_and_those_of_others_lose_traces_only(course, target):
    other = Exporting(target)
    other.db.notes.insert_many([{"text": f"call {ANN.phone}"}, {"text": f"call {BOB.phone}"}])
    there = course.folder / "exports" / "monthly"
    other.export(there, "notes")
    other.db.notes.drop()
    assert Traces(ANN).hit(everything(there))

    plan = course.begun()
    course.engine.erase_objects(plan)

    assert not Traces(ANN).hit(everything(there))
    assert manifest.read(there).total.count == 1
    assert transfers.verify_export(there).ok
    assert course.ended(plan) == "completed_with_retention"


def test_of_parts_of_documents_any_trace_takes_the_whole_since_no_rule_can_be_followed(course, outside):
    course.export(outside, "artists", projection={"name": 1})
    assert manifest.read(outside).total.count == 3

    course.engine.erase_objects(course.begun())

    left = [bson.decode(one) for one in rows(outside, "artists")]
    assert sorted(one["_id"] for one in left) == sorted([BOB.artist, JOANN.artist])
    course.engine.release()


def test_references_of_the_person_leave_the_manifest(course, outside):
    request = course.receive()
    mine = course.db.ops_erasure_requests.find_one({"_id": request})["subject_ref"]
    made = transfers.plan_export(course.target, outside, transfers.ExportRequest(collections=("users",)))
    transfers.export_part(course.target, outside, made, 0, run_id="run 1")
    transfers.finish_export(course.target, outside, made, run_id="run 1", subjects={"users": [mine, "somebody's"]})

    course.engine.erase_objects(course.begun(request))

    assert manifest.read(outside).collection("users").subjects == ["somebody's"]
    course.engine.release()


def test_a_hold_keeps_documents_in_the_export_as_in_the_collection(course, outside):
    course.export(outside, "analytics", format="jsonl")
    plan = course.begun()
    scope = holds.of_documents(course.db, "analytics", json.dumps({"event_type": "play"}))
    told = {"reason_code": "litigation", "authority": "court", "actor": GRACE}
    now = datetime.now(UTC)
    holds.place(course.db, "development", scope, now=now, review_at=now + timedelta(days=9), **told)

    course.engine.erase_objects(plan)

    assert str(ANN.user).encode() in everything(outside)
    assert course.ended(plan) == "completed_with_retention"


# What cannot be read -----------------------------------------------------------------------------------------------------------


def damaged(course, outside):
    name = next(name for name in files(outside) if name.startswith("users/"))
    path = Path(outside.path) / name
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    return lambda: path.write_bytes(whole)


def without_a_part(course, outside):
    name = next(name for name in files(outside) if name.startswith("users/"))
    (Path(outside.path) / name).rename(Path(outside.path) / "away")
    return lambda: (Path(outside.path) / "away").rename(Path(outside.path) / name)


def without_a_valid_manifest(course, outside):
    path = Path(outside.path) / "manifest.json"
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'"bson"', b'"bsom"', 1))
    return lambda: path.write_bytes(whole)


def of_another_machine(course, outside):
    course.db.ops_transfers.update_many({}, {"$set": {"host": "laptop", "destination": "/nowhere/else"}})
    return lambda: course.db.ops_transfers.delete_many({})


def unfinished(course, outside):
    again = open_folder(f"{outside.path}-2")
    made = transfers.plan_export(course.target, again, transfers.ExportRequest(collections=("users",)))
    transfers.export_part(course.target, again, made, 0, run_id="run 2")
    return lambda: transfers.discard_export(again)


def orphaned(course, outside):
    path = Path(course.folder.path) / "exports" / "old" / "users" / "00000-1a2b3c4d.bson.zst"
    path.parent.mkdir(parents=True)
    path.write_bytes(zstandard.compress(b"whose?"))
    return path.unlink


@pytest.mark.parametrize(
    "spoil", [damaged, without_a_part, without_a_valid_manifest, of_another_machine, unfinished, orphaned]
)
def test_what_nobody_can_look_into_is_said_until_it_is_mended(course, outside, spoil):
    course.export(outside, "users")
    mend = spoil(course, outside)
    plan = course.begun()
    said = [one.sentence for one in plan.findings if one.where == "exports"]
    assert len(said) == (spoil in (without_a_valid_manifest, of_another_machine, unfinished))  # what the manifests show
    course.engine.erase_objects(plan)
    work = course.engine.work(plan)

    assert len(inspect(work, course.engine.stores).blind) == 1

    mend()
    course.engine.erase_objects(plan)
    assert inspect(work, course.engine.stores) == Inspection()
    assert not hidden().hit(everything(outside)) or spoil is of_another_machine
    course.engine.release()


def test_an_export_in_the_storage_that_somebody_removed_is_gone_whatever_machine_wrote_it(course, monkeypatch):
    monkeypatch.setattr("socket.gethostname", lambda: "worker-7")
    there = course.folder / "exports" / "daily"
    course.export(there, "users")
    shutil.rmtree(there.path)
    monkeypatch.undo()

    (folder,), faults = course.engine.exports.known()

    assert (folder.path, course.engine.exports.being(folder), faults) == (there.path, "none", [])


def test_what_nobody_took_out_is_seen_by_the_inspection(course, outside):
    course.export(outside, "users", "analytics", format="csv.gz")
    plan = course.begun()

    assert course.ended(plan) == "partial"  # nobody called the objects stage

    kept = course.db.ops_erasure_runs.find_one({"_id": plan.run_id})["verification"]["residue"]
    assert {kind for _, kind, _, _ in kept} >= {"export"}
    assert course.whole(plan.run_id).states == {"completed_with_retention": 1}


def test_a_trace_in_the_text_that_no_document_has_is_seen(course, outside, monkeypatch):
    course.export(outside, "tracks", format="jsonl")
    plan = course.begun()
    course.engine.erase_objects(plan)
    work = course.engine.work(plan)
    known = course.engine.exports
    assert export_inspection.inspect(work, known, [], holds.active(course.db)) == export_inspection.Seen()
    real = rewriting.FinishedExport.text
    monkeypatch.setattr(
        rewriting.FinishedExport, "text", lambda self, file: iter([*real(self, file), b" Ann@example.org "])
    )

    assert [one for _, one in export_inspection.inspect(work, known, [], holds.active(course.db)).left] == [plan.run_id]
    course.engine.release()


# Kills ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """What a process needs to know."""

    uri: str
    address: str
    database: str
    storage: str
    plan: dict[str, Any]
    keys: dict[str, str]
    die: tuple[str, int] | None


def go_on(job: Job) -> None:
    """Carry out the objects stage; die at the n-th call of a function."""
    environment = Environment("development", "mongo_development", database=job.database, storage=job.storage)
    with connect(ConnectionSpec("mongo_development", job.uri, job.address, job.database), environment) as target:
        for name, (module, attribute) in MINES.items():
            if job.die and job.die[0] == name:
                mine(module, attribute, job.die[1], after=name == "switched")
        Exporting(target, keyring=keyring(job.keys)).engine.erase_objects(of_value(job.plan))


MINES = {
    "write": (storage.Sink, "write"),
    "switch": (manifest, "replace"),
    "switched": (manifest, "replace"),
    "remove": (versions, "remove"),
}


def mine(module: Any, attribute: str, nth: int, *, after: bool) -> None:
    real, calls = getattr(module, attribute), []

    def call(*words: Any) -> Any:
        calls.append(1)
        found = real(*words) if after else None
        if len(calls) == nth:
            os.kill(os.getpid(), signal.SIGKILL)
        return found if after else real(*words)

    setattr(module, attribute, call)


@pytest.mark.chaos
def test_killed_at_any_step_it_comes_to_the_same(course, outside, replica_set):
    course.export(outside, format="bson", partitions=2)
    before = files(outside)
    plan = course.begun()
    host, port = course.target.client.address
    given = (
        replica_set.uri,
        f"{host}:{port}",
        course.target.database,
        course.target.environment.storage,
        as_value(plan),
        KEYS,
    )

    def run(die):
        running = CONTEXT.Process(target=go_on, args=(Job(*given, die),), daemon=True)
        running.start()
        running.join(DEADLINE)
        return running.exitcode

    assert run(None) == 0
    undisturbed, counted = files(outside), course.db.ops_erasure_results.find_one({"rule": "copies"})
    assert undisturbed != before
    for name in undisturbed:
        (Path(outside.path) / name).unlink()
    for name, content in before.items():
        (Path(outside.path) / name).write_bytes(content)
    course.db.ops_erasure_results.delete_many({})

    for die in (("write", 1), ("write", 7), ("switch", 1)):
        assert run(die) == -signal.SIGKILL, die
        assert transfers.verify_export(outside).ok
        assert {name for name in files(outside) if ".partial" not in name} >= set(before)
    assert run(("switched", 1)) == -signal.SIGKILL
    assert run(("remove", 1)) == -signal.SIGKILL
    assert transfers.verify_export(outside).ok
    assert not hidden().hit((Path(outside.path) / "manifest.json").read_bytes())

    assert run(None) == 0
    assert files(outside) == undisturbed
    after = course.db.ops_erasure_results.find_one({"rule": "copies"})
    assert (after["documents"], after["people"]) == (counted["documents"], counted["people"])
    assert course.ended(plan) == "completed_with_retention"
