"""Every operation on documents, on a real server: forward, again, back, forward; and killed at every transaction."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import bson
import pytest
from bson import Binary, Decimal128, Int64, ObjectId, Regex
from bson.raw_bson import RawBSONDocument
from pymongo import MongoClient
from tests.mongo.bench import Workshop

from mongo_ops.migrations.faults import explain
from mongo_ops.migrations.operations.add_field import AddField
from mongo_ops.migrations.operations.backfill import Backfill
from mongo_ops.migrations.operations.base import OperationError
from mongo_ops.migrations.operations.convert_field import ConvertField
from mongo_ops.migrations.operations.copy_documents import CopyDocuments
from mongo_ops.migrations.operations.insert_documents import InsertDocuments
from mongo_ops.migrations.operations.move_documents import MoveDocuments
from mongo_ops.migrations.operations.remove_field import RemoveField
from mongo_ops.migrations.operations.rename_field import RenameField
from mongo_ops.migrations.operations.run_python import RunPython
from mongo_ops.mongo import batches
from mongo_ops.mongo.batches import NotWalkableError
from mongo_ops.mongo.documents import CODEC, canonical, set_digest
from mongo_ops.mongo.guard import ReadOnlyGuard
from mongo_ops.mongo.lease import Lease
from mongo_ops.mongo.throttle import Limits

SMALL = Limits(batch_seconds=1e-9)  # keeps every batch at the smallest size, ten documents
MARKER = "Ada.Lovelace@example.org"


def user(i: int) -> dict[str, Any]:
    """Document ``i`` of the reference data: three types of _id, and every kind of presence of each field."""
    key = (i, f"user-{i:03}", ObjectId(f"{i:024x}"))[i % 3]
    document: dict[str, Any] = {"_id": key, "name": MARKER, "n": i, "born": datetime(1990, 1, 1 + i % 28, tzinfo=UTC)}
    document |= {
        "money": Decimal128(f"{i}.10"),
        "big": Int64(2**60 + i),
        "raw": Binary(b"\x00\xff"),
        "like": Regex("^a"),
    }
    document |= {
        "deep": {"er": {"list": [{"x": i}, [1, None], 1.5], "value": Int64(i)}},
        "genres": ["Rock", "JAZZ"][: i % 3],
    }
    if i % 2:
        document["plan"] = None if i % 5 == 0 else {"level": i}
    if i % 4:
        document["profile"] = {"city": f"c{i}"} if i % 3 else {}
    if i % 7:
        document["age"] = (str(i), Int64(i), "not a number", None, i, f"{i}.5")[i % 6]
    return document


USERS = [user(i) for i in range(42)]


def changed(change: Callable[[dict[str, Any]], Any], documents=USERS) -> list[dict[str, Any]]:
    """Return copies of the documents after ``change`` has worked on each."""
    copies = [user(i) for i in range(42)] if documents is USERS else [dict(one) for one in documents]
    for one in copies:
        change(one)
    return copies


@dataclass
class Case:
    """An operation, what is there before it, and what must be there after it."""

    operation: Any
    after: dict[str, list[dict[str, Any]]]
    before: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"users": USERS})


def _profile_tier(one):
    if "tier" not in one.get("profile", {}):
        one.setdefault("profile", {})["tier"] = "free"


def _rename_into(one):
    if "plan" in one:
        one.setdefault("profile", {})["plan"] = one.pop("plan")


def _long(age):
    if age is None or (isinstance(age, str) and not age.isdigit()):
        return None
    return Int64(age)


def _to_int(one):
    age = one.get("age")
    if isinstance(age, Int64) or (isinstance(age, str) and age.isdigit()):
        one["age"] = int(age)


def _lower(one):
    if any(genre != genre.lower() for genre in one["genres"]):
        one["genres"] = [genre.lower() for genre in one["genres"]]


def _half(documents):
    return [one for one in documents if one["n"] % 2]


def _rest(documents):
    return [one for one in documents if not one["n"] % 2]


def add_one(ctx):
    ctx.in_batches(
        "add one", "users", {}, lambda session, selected: ctx.db.users.update_many(selected, {"$inc": {"n": 1}})
    )


def take_one(ctx):
    ctx.in_batches("take one", "users", {"n": {"$gte": 0}}, {"$inc": {"n": -1}})


def close_all(ctx):
    done = ctx.db.users.update_many({"n": {"$lt": 30}}, {"$set": {"closed": True}})
    ctx.db["closings"].insert_one({"_id": "first", "count": done.modified_count})
    ctx.count("modified", done.modified_count)


def open_all(ctx):
    ctx.db.users.update_many({}, {"$unset": {"closed": ""}})
    ctx.db["closings"].delete_one({"_id": "first"})


LEVELS = [{"_id": "free", "limit": 1}, {"_id": "premium", "limit": 10}, {"_id": Int64(7), "limit": Decimal128("7.0")}]
SUMMARY = [{"$set": {"age": "$n"}}, {"$replaceWith": {"who": "$name", "age": "$age"}}]


def _summary(one):
    return {"_id": one["_id"], "who": one["name"], "age": one["n"]}


CASES = {
    "add a constant": Case(AddField("users", "status", value="a$b"), {"users": changed(lambda o: o.update(status="a$b"))}),
    "add null": Case(AddField("users", "age"), {"users": changed(lambda o: o.setdefault("age", None))}),
    "add inside of a document that may be missing": Case(
        AddField("users", "profile.tier", value="free"), {"users": changed(_profile_tier)}
    ),
    "add two levels deep": Case(
        AddField("users", "a.b.c", value=Decimal128("1.0")), {"users": changed(lambda o: o.update(a={"b": {"c": Decimal128("1.0")}}))}
    ),
    "add an expression where": Case(
        AddField("users", "twice", expression={"$multiply": ["$n", 2]}, where={"n": {"$lt": 30}}),
        {"users": changed(lambda o: o.update(twice=o["n"] * 2) if o["n"] < 30 else None)},
    ),
    "rename": Case(RenameField("users", "age", "years"), {"users": changed(lambda o: o.update(years=o.pop("age")) if "age" in o else None)}),
    "rename into a document that may be missing": Case(RenameField("users", "plan", "profile.plan"), {"users": changed(_rename_into)}),
    "rename out of a document": Case(
        RenameField("users", "deep.er.value", "value"), {"users": changed(lambda o: o.update(value=o["deep"]["er"].pop("value")))}
    ),
    "remove": Case(RemoveField("users", "plan"), {"users": changed(lambda o: o.pop("plan", None))}),
    "remove a nested document": Case(RemoveField("users", "deep.er"), {"users": changed(lambda o: o["deep"].pop("er"))}),
    "remove where": Case(
        RemoveField("users", "money", where={"n": {"$gte": 30}}),
        {"users": changed(lambda o: o.pop("money") if o["n"] >= 30 else None)},
    ),
    "convert, null for errors": Case(
        ConvertField("users", "age", "long", on_error="null"),
        {"users": changed(lambda o: o.update(age=_long(o["age"])) if "age" in o else None)},
    ),
    "convert, keep errors": Case(ConvertField("users", "age", "int", on_error="keep"), {"users": changed(_to_int)}),
    "convert nested": Case(
        ConvertField("users", "deep.er.value", "string"),
        {"users": changed(lambda o: o["deep"]["er"].update(value=str(o["deep"]["er"]["value"])))},
    ),
    "backfill $inc with an update back": Case(
        Backfill("users", {"$inc": {"n": 100}}, where={"n": {"$lt": 30}}, revert={"$inc": {"n": -100}}),
        {"users": changed(lambda o: o.update(n=o["n"] + 100) if o["n"] < 30 else None)},
    ),
    "backfill a pipeline from the snapshot": Case(
        Backfill(
            "users",
            where={"genres": {"$elemMatch": {"$regex": "[A-Z]"}}},
            update=[{"$set": {"genres": {"$map": {"input": "$genres", "in": {"$toLower": "$$this"}}}}}],
            revert="snapshot",
        ),
        {"users": changed(_lower)},
    ),
    "backfill operators from the snapshot": Case(
        Backfill("users", {"$unset": {"plan": ""}, "$set": {"deep.er.value": 0, "fresh": 1}, "$push": {"genres": "x"}}, revert="snapshot"),
        {"users": changed(lambda o: (o.pop("plan", 0), o["deep"]["er"].update(value=0), o.update(fresh=1), o["genres"].append("x")))},
    ),
    "backfill whole documents from the snapshot": Case(
        Backfill("users", [{"$replaceWith": {"who": "$name", "age": "$n"}}], revert="snapshot"),
        {"users": [_summary(one) for one in USERS]},
    ),
    "copy": Case(CopyDocuments("users", "people"), {"users": USERS, "people": USERS}),
    "copy reshaped, some being there": Case(
        CopyDocuments("users", "people", where={"n": {"$mod": [2, 1]}}, pipeline=SUMMARY),
        {"users": USERS, "people": [{"_id": "other"}, *(_summary(one) for one in _half(USERS))]},
        {"users": USERS, "people": [{"_id": "other"}, *(_summary(one) for one in _half(USERS)[:7])]},
    ),
    "move": Case(MoveDocuments("users", "people"), {"people": USERS}),
    "move where, some being there": Case(
        MoveDocuments("users", "people", where={"n": {"$mod": [2, 1]}}),
        {"users": _rest(USERS), "people": [{"_id": "other"}, *_half(USERS)]},
        {"users": USERS, "people": [{"_id": "other"}, *_half(USERS)[:7]]},
    ),
    "insert": Case(InsertDocuments("levels", LEVELS), {"levels": LEVELS}, {"levels": LEVELS[:1]}),
    "upsert by another key": Case(
        InsertDocuments("levels", [{"code": "a", "limit": 2}, {"code": "c", "limit": 3}], key=("code",), upsert=True),
        {"levels": [{"_id": 1, "code": "a", "limit": 2}, {"_id": 2, "code": "b", "limit": 2}, {"code": "c", "limit": 3}]},
        {"levels": [{"_id": 1, "code": "a", "limit": 1, "old": {"x": Int64(1)}}, {"_id": 2, "code": "b", "limit": 2}]},
    ),
    "a function in batches": Case(
        RunPython(add_one, reverse=take_one, collections=("users",), batched=True), {"users": changed(lambda o: o.update(n=o["n"] + 1))}
    ),
    "a function in a transaction": Case(
        RunPython(close_all, reverse=open_all),
        {
            "users": changed(lambda o: o.update(closed=True) if o["n"] < 30 else None),
            "closings": [{"_id": "first", "count": 30}],
        },
    ),
}  # fmt: skip


class Killed(BaseException):
    """Stands for a process that dies."""


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(batches, "FIRST_SIZE", 10)


@pytest.fixture
def shop(db, small_batches):
    return Workshop(db)


@pytest.fixture
def read_only(replica_set, db):
    with MongoClient(replica_set.uri, event_listeners=[ReadOnlyGuard()]) as client:
        yield client.get_database(db.name, codec_options=CODEC)


@pytest.fixture
def kill_at(monkeypatch):
    """Die in the given transaction: before it commits (``inside``) or right after it has."""

    @contextlib.contextmanager
    def kill(number, moment):
        seen, real = 0, Lease.transaction

        def transaction(self, body):
            nonlocal seen
            seen += 1
            here = seen == number

            def dying(session):
                result = body(session)
                if here and moment == "inside":
                    raise Killed
                return result

            result = real(self, dying)
            if here and moment == "after":
                raise Killed
            return result

        with monkeypatch.context() as patch:
            patch.setattr(Lease, "transaction", transaction)
            died: list[bool] = []
            try:
                yield died
            except Killed:
                died.append(True)

    return kill


def fill(db, content):
    for name, documents in content.items():
        db[name].insert_many([dict(one) for one in documents])


def content(db) -> dict[str, tuple[int, str]]:
    """Return count and digest of every collection that holds something and is not ours."""
    names = [name for name in db.list_collection_names() if not name.startswith("ops_")]
    return {name: found for name in sorted(names) if (found := set_digest(db[name].find()))[0]}


def expected(wanted, db) -> dict[str, tuple[int, str]]:
    """Return what ``content`` must be; a document given without ``_id`` takes that of its equal in the database."""
    filled = {}
    for name, documents in wanted.items():
        whole = [one if "_id" in one else {**one, "_id": db[name].find_one(one)["_id"]} for one in documents]
        filled[name] = set_digest(whole)
    return {name: found for name, found in sorted(filled.items()) if found[0]}


@pytest.mark.parametrize("name", CASES)
def test_forward_again_back_and_forward(name, db, shop, read_only):
    case = CASES[name]
    fill(db, case.before)
    before = content(db)

    previewed = case.operation.preview(read_only)
    assert content(db) == before
    assert not [name for name in db.list_collection_names() if name.startswith("ops_")]
    assert previewed.stop is None

    counts = shop.forward(case.operation, SMALL)
    after = content(db)
    assert after == expected(case.after, db)
    if previewed.matched is not None:
        written = counts.matched if case.operation.kind != "InsertDocuments" else counts.inserted + counts.modified
        assert previewed.matched == written + (counts.inserted if case.operation.kind == "CopyDocuments" else 0)

    shop.forward(case.operation, SMALL) if case.operation.kind != "RunPython" else None
    assert content(db) == after

    shop.reverse(case.operation, SMALL)
    assert content(db) == before
    assert db[f"ops_before_test_{id(case.operation)}"].find_one() is None

    shop.forward(case.operation, SMALL)
    assert content(db) == expected(case.after, db)


IN_BATCHES = [name for name, case in CASES.items() if case.operation.mode.value == "batches"]
UNDONE_HALFWAY = [
    name for name in IN_BATCHES if CASES[name].operation.kind != "RunPython"
]  # its reverse is its author's


def a_few(names):
    """Leave every fourth to `make test` and the others to `make chaos`."""
    return [name if n % 4 == 0 else pytest.param(name, marks=pytest.mark.chaos) for n, name in enumerate(names)]


@pytest.mark.parametrize("name", a_few(IN_BATCHES))
def test_killed_at_any_transaction_and_resumed_it_is_as_if_nothing_had_happened(name, db, shop, kill_at):
    case = CASES[name]
    fill(db, case.before)
    before = content(db)
    for number, moment in ((1, "inside"), (1, "after"), (3, "after"), (5, "inside")):
        with kill_at(number, moment) as died:
            shop.forward(case.operation, SMALL)
        assert died
        shop.forward(case.operation, SMALL)
        assert content(db) == expected(case.after, db), f"killed {moment} transaction {number}"
        shop.reverse(case.operation, SMALL)
        assert content(db) == before, f"killed {moment} transaction {number}"


@pytest.mark.parametrize("name", a_few(UNDONE_HALFWAY))
def test_killed_at_any_transaction_and_undone_it_is_as_before(name, db, shop, kill_at):
    case = CASES[name]
    fill(db, case.before)
    before = content(db)
    for number, moment in ((1, "inside"), (1, "after"), (2, "inside"), (5, "after")):
        with kill_at(number, moment) as died:
            shop.forward(case.operation, SMALL)
        assert died
        shop.reverse(case.operation, SMALL)
        assert content(db) == before, f"killed {moment} transaction {number}"


@pytest.mark.parametrize("name", a_few(IN_BATCHES))
def test_killed_while_it_is_undone_and_resumed_it_is_as_before(name, db, shop, kill_at):
    case = CASES[name]
    fill(db, case.before)
    before = content(db)
    for number, moment in ((1, "inside"), (1, "after"), (2, "after")):
        shop.forward(case.operation, SMALL)
        with kill_at(number, moment) as died:
            shop.reverse(case.operation, SMALL)
        assert died or number == 2  # the fewest documents make one batch
        if died:
            shop.reverse(case.operation, SMALL)
        assert content(db) == before, f"killed {moment} transaction {number}"


@pytest.mark.parametrize("name", [name for name in CASES if name not in IN_BATCHES])
def test_killed_inside_its_one_transaction_nothing_is_left(name, db, shop, kill_at):
    case = CASES[name]
    fill(db, case.before)
    before = content(db)
    with kill_at(1, "inside") as died:
        shop.forward(case.operation)
    assert died
    assert content(db) == before
    shop.forward(case.operation)
    assert content(db) == expected(case.after, db)


@pytest.mark.parametrize("name", CASES)
def test_an_empty_and_a_missing_collection_are_no_trouble(name, db, shop, read_only):
    operation = CASES[name].operation
    if operation.kind in ("InsertDocuments", "RunPython"):
        return
    for there in (False, True):
        if there:
            db.create_collection((operation.reads() or operation.writes())[0])
        previewed = operation.preview(read_only)
        assert previewed.matched == 0
        assert any("does not exist" in note or "check the collection's name" in note for note in previewed.notes)
        assert shop.forward(operation).as_dict() == {}
        assert shop.reverse(operation).as_dict() == {}


def test_inc_reaches_each_of_3000_documents_exactly_once_however_often_it_is_killed(db, shop, kill_at):
    db.numbers.insert_many({"_id": f"k{i}" if i % 2 else i, "n": 0} for i in range(3000))
    increment = Backfill("numbers", {"$inc": {"n": 1}}, revert={"$inc": {"n": -1}})
    for number in (2, 1, 17, 5, 40, 3, 9):
        with kill_at(number, "inside" if number % 2 else "after"):
            shop.forward(increment, SMALL)

    counts = shop.forward(increment)

    assert db.numbers.count_documents({"n": 1}) == counts.matched == counts.modified == 3000
    for number in (2, 30, 7):
        with kill_at(number, "inside" if number % 2 else "after") as died:
            shop.reverse(increment, SMALL)
        assert died
    shop.reverse(increment)
    assert db.numbers.distinct("n") == [0]


# --- what happens to documents that change between forward and reverse


def test_a_field_that_others_set_survives_the_reverse_of_add_field(db, shop):
    fill(db, {"users": [{"_id": 1}, {"_id": 5, "plan": {"tier": "gold"}}, {"_id": 9}]})
    operation = AddField("users", "plan.tier", value="free")
    shop.forward(operation)
    db.users.insert_one({"_id": 3, "plan": {"tier": "new"}})
    db.users.update_one({"_id": 9}, {"$set": {"plan.since": 2026}})

    shop.reverse(operation)

    found = [
        {"_id": 1},
        {"_id": 3, "plan": {"tier": "new"}},
        {"_id": 5, "plan": {"tier": "gold"}},
        {"_id": 9, "plan": {"since": 2026}},
    ]
    assert list(db.users.find().sort("_id", 1)) == found


def test_remove_field_does_not_overwrite_what_was_written_since(db, shop):
    fill(db, {"users": [{"_id": i, "a": {"b": i}} for i in range(5)]})
    operation = RemoveField("users", "a.b")
    shop.forward(operation)
    db.users.update_one({"_id": 1}, {"$set": {"a.b": "newer"}})
    db.users.update_one({"_id": 2}, {"$set": {"a": MARKER}})
    db.users.update_one({"_id": 3}, {"$set": {"a": [{"c": MARKER}]}})
    db.users.delete_one({"_id": 4})

    assert shop.reverse(operation).as_dict() == {"matched": 1, "modified": 1}

    kept = (
        {"_id": 0, "a": {"b": 0}},
        {"_id": 1, "a": {"b": "newer"}},
        {"_id": 2, "a": MARKER},
        {"_id": 3, "a": [{"c": MARKER}]},
    )
    assert list(db.users.find().sort("_id", 1)) == list(kept)


def test_an_explicit_way_back_touches_only_what_was_changed_although_the_filter_means_others_by_then(db, shop):
    fill(db, {"users": [{"_id": i, "new": i < 2, "n": 0} for i in range(0, 8, 2)]})
    operation = Backfill(
        "users", {"$inc": {"n": 1}, "$set": {"new": False}}, where={"new": True}, revert={"$inc": {"n": -1}}
    )
    shop.forward(operation)
    db.users.insert_one({"_id": 1, "new": True, "n": 0})

    shop.reverse(operation)

    assert db.users.distinct("n") == [0]


def test_moved_documents_come_back_as_they_are_by_then(db, shop):
    fill(db, {"users": [{"_id": i, "n": i} for i in range(3)]})
    operation = MoveDocuments("users", "people")
    shop.forward(operation)
    db.people.update_one({"_id": 1}, {"$set": {"n": "newer"}})
    db.people.delete_one({"_id": 2})

    shop.reverse(operation)

    assert list(db.users.find()) == [{"_id": 0, "n": 0}, {"_id": 1, "n": "newer"}]
    assert db.people.count_documents({}) == 0


def test_copies_go_although_they_were_changed_and_others_stay(db, shop):
    fill(db, {"users": [{"_id": 1}, {"_id": 2}]})
    operation = CopyDocuments("users", "people")
    shop.forward(operation)
    db.people.update_one({"_id": 1}, {"$set": {"n": "newer"}})
    db.people.insert_one({"_id": 3})

    assert shop.reverse(operation).as_dict() == {"deleted": 2}

    assert list(db.people.find()) == [{"_id": 3}]


def test_a_killed_copy_goes_on_although_what_it_copied_was_changed_in_the_target(db, shop, kill_at):
    fill(db, {"users": [{"_id": i} for i in range(30)]})
    operation = CopyDocuments("users", "people")
    with kill_at(3, "after") as died:
        shop.forward(operation, SMALL)
    assert died
    db.people.update_one({"_id": 0}, {"$set": {"n": "newer"}})

    assert shop.forward(operation, SMALL).as_dict() == {"inserted": 30}

    assert db.people.find_one({"_id": 0}) == {"_id": 0, "n": "newer"}


@pytest.mark.parametrize(
    "operation",
    [
        MoveDocuments("users", "people"),
        CopyDocuments("users", "people"),
        Backfill("users", [{"$replaceWith": {}}], revert="snapshot"),
    ],
    ids=["move", "copy", "snapshot"],
)
def test_types_that_python_lacks_keep_every_byte(operation, db, shop):
    undefined = bson.encode({"_id": 1, "old": {"x": None, "y": 1}}).replace(b"\x0ax\x00", b"\x06x\x00")
    users, people = (
        db[name].with_options(codec_options=CODEC.with_options(document_class=RawBSONDocument))
        for name in ("users", "people")
    )
    users.insert_one(RawBSONDocument(undefined))

    shop.forward(operation)
    assert {one.raw for one in people.find()} <= {undefined}
    shop.reverse(operation)

    assert [one.raw for one in users.find()] == [undefined]


def test_a_conversion_is_undone_even_where_the_value_was_written_since_but_not_where_it_is_gone(db, shop):
    fill(db, {"users": [{"_id": i, "age": f"{i}"} for i in range(3)]})
    operation = ConvertField("users", "age", "int")
    shop.forward(operation)
    db.users.update_one({"_id": 1}, {"$set": {"age": 99}})
    db.users.update_one({"_id": 2}, {"$unset": {"age": ""}})

    shop.reverse(operation)

    assert list(db.users.find().sort("_id", 1)) == [{"_id": 0, "age": "0"}, {"_id": 1, "age": "1"}, {"_id": 2}]
    assert operation.destroys()[0].fields == ("age",)


def test_an_erased_document_is_not_brought_back(db, shop):
    for operation in (Backfill("users", [{"$replaceWith": {}}], revert="snapshot"), RemoveField("users", "name")):
        fill(db, {"users": [{"_id": 1, "name": MARKER}]})
        shop.forward(operation)
        db.users.delete_many({})
        shop.reverse(operation)
        assert content(db) == {}


# --- refusals: before the first write, with counts and without values


@dataclass
class Refusal:
    operation: Any
    documents: dict[str, list[dict[str, Any]]]
    says: str


REFUSALS = {
    "add below a scalar": Refusal(
        AddField("users", "a.b", value=1), {"users": [{"_id": 1}, {"_id": 2, "a": MARKER}, {"_id": 3, "a": []}]}, "in 2 documents"
    ),
    "rename over another": Refusal(
        RenameField("users", "a", "b"), {"users": [{"a": MARKER}, {"a": MARKER, "b": 1}]}, "1 documents of users have both a and b"
    ),
    "rename out of an array": Refusal(RenameField("users", "a.b", "c"), {"users": [{"a": [{"b": MARKER}]}]}, "inside an array in 1"),
    "rename below a scalar": Refusal(RenameField("users", "a", "b.c"), {"users": [{"a": 1, "b": MARKER}]}, "b.c cannot be set in 1"),
    "remove inside an array": Refusal(RemoveField("users", "a.b"), {"users": [{"a": [{"b": MARKER}]}]}, "inside an array in 1"),
    "convert the impossible": Refusal(
        ConvertField("users", "age", "int"),
        {"users": [{"age": "1"}, {"age": MARKER}, {"age": [1]}, {"age": {"x": 1}}, {"age": None}, {}]},
        "age cannot be converted to int in 3 documents",
    ),
    "convert null": Refusal(ConvertField("users", "age", "int", on_null="stop"), {"users": [{"age": None}]}, "is null in 1"),
    "convert inside an array": Refusal(ConvertField("users", "a.b", "int"), {"users": [{"a": [{"b": MARKER}]}]}, "inside an array"),
    "copy onto other content": Refusal(
        CopyDocuments("users", "people"),
        {"users": [{"_id": i, "x": i} for i in range(30)], "people": [{"_id": 28, "x": MARKER}, {"_id": 29, "x": Int64(29)}]},
        "2 documents are in people already",
    ),
    "move onto other content": Refusal(
        MoveDocuments("users", "people"),
        {"users": [{"_id": MARKER, "x": 1}, {"_id": 2}], "people": [{"_id": MARKER, "x": 2}, {"_id": 2}]},
        "1 documents are in people already",
    ),
    "insert onto other content": Refusal(
        InsertDocuments("users", [{"_id": 1, "x": 1}, {"_id": 2}]), {"users": [{"_id": 1, "x": MARKER}]}, "1 documents are in users already"
    ),
    "insert by a key that is no key": Refusal(
        InsertDocuments("users", [{"x": MARKER}], key=("x",)), {"users": [{"x": MARKER}, {"x": MARKER}]}, "several times"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSALS)
def test_a_refusal_names_a_count_no_value_and_writes_nothing(name, db, shop, read_only):
    case = REFUSALS[name]
    fill(db, case.documents)
    before = content(db)

    with pytest.raises(OperationError) as caught:
        shop.forward(case.operation, SMALL)

    assert case.says in str(caught.value)
    assert MARKER not in "".join(traceback.format_exception(caught.value))
    assert content(db) == before
    assert case.operation.preview(read_only).stop == str(caught.value)


def test_a_conflict_that_arises_during_a_copy_stops_it_and_what_was_copied_can_be_undone(db, shop):
    fill(db, {"users": [{"_id": i, "x": i} for i in range(30)]})
    operation = CopyDocuments("users", "people")
    db.people.create_index("x", unique=True)
    shop.forward(operation, SMALL)
    shop.reverse(operation)
    db.people.insert_one({"_id": "other", "x": 25})

    with pytest.raises(Exception) as caught:  # noqa: PT011 - the driver's; the engine words it
        shop.forward(operation, SMALL)
    assert "same x exists already" in str(explain(caught.value, "001_x"))
    assert db.people.count_documents({}) == 21

    shop.reverse(operation)
    assert list(db.people.find()) == [{"_id": "other", "x": 25}]


# --- previews


def test_a_preview_foretells_what_the_validator_will_refuse(db, read_only):
    db.create_collection(
        "users", validator={"$jsonSchema": {"properties": {"age": {"bsonType": "string"}, "b": {"enum": [1]}}}}
    )
    db.users.insert_many([{"age": "1"}, {"age": "2"}, {}])

    for operation in (ConvertField("users", "age", "int"), RenameField("users", "age", "b")):
        seen = operation.preview(read_only)
        assert (seen.matched, seen.rejected) == (2, 2)
        assert seen.stop == "2 documents of users would be refused by its validator."
    assert AddField("users", "b", value=2).preview(read_only).rejected == 3
    assert Backfill("users", [{"$set": {"b": 1}}]).preview(read_only).stop is None


def test_a_moderate_validator_lets_invalid_documents_alone(db, read_only):
    db.users.insert_many([{"age": 1}, {"age": "2"}])
    db.command("collMod", "users", validator={"age": {"$type": "string"}}, validationLevel="moderate")

    assert Backfill("users", [{"$set": {"age": 0}}]).preview(read_only).rejected == 1


def test_a_preview_tells_a_scan_from_an_index(db, read_only):
    db.users.insert_many([{"plan": "x", "n": i} for i in range(20)])
    db.users.create_index("plan")

    seen = Backfill("users", {"$inc": {"n": 1}}, where={"plan": "x"}).preview(read_only)
    assert (seen.scan, seen.matched, seen.scanned, seen.risk) == (False, 20, 20, "high")
    assert seen.seconds == pytest.approx(20 / 20_000)
    assert Backfill("users", {"$inc": {"n": 1}}, where={"n": 1}, revert="snapshot").preview(read_only).scan is True


@pytest.mark.parametrize(
    ("options", "kind"),
    [({"viewOn": "users", "pipeline": []}, "view"), ({"capped": True, "size": 4096}, "capped collection")],
)
def test_what_cannot_be_walked_stops_the_preview_and_the_run_alike(options, kind, db, shop, read_only):
    db.create_collection("seen", **options)
    operation = Backfill("seen", {"$inc": {"n": 1}})

    with pytest.raises(NotWalkableError) as caught:
        shop.forward(operation)

    assert (
        operation.preview(read_only).stop == str(caught.value) == f"seen is a {kind} and cannot be changed in batches."
    )


# --- functions


def test_a_function_that_fails_leaves_nothing_although_it_passes_no_session(db, shop):
    def forward(ctx):
        ctx.db.users.insert_one({"_id": 1})
        ctx.db["users"].update_one({"_id": 1}, {"$set": {"n": 1}})
        assert ctx.db.users.find_one({"_id": 1}) == {"_id": 1, "n": 1}
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        shop.forward(RunPython(forward))

    assert db.users.count_documents({}) == 0


@pytest.mark.parametrize(
    "escape",
    [
        lambda ctx: ctx.db.users.create_index("n"),
        lambda ctx: ctx.db.users.drop(),
        lambda ctx: ctx.db.users.with_options(),
        lambda ctx: ctx.db.users.insert_one({}, session=None),
        lambda ctx: ctx.in_batches("x", "users", {}, {"$set": {"a": 1}}),
        lambda ctx: ctx.db.command("dropDatabase"),
    ],
)
def test_nothing_escapes_from_the_transaction(escape, db, shop):
    fill(db, {"users": [{"_id": 1}]})

    with pytest.raises(OperationError):
        shop.forward(RunPython(escape))

    assert list(db.users.find()) == [{"_id": 1}]
    assert list(db.users.index_information()) == ["_id_"]


def test_a_killed_batch_of_a_function_takes_its_sessionless_writes_along(db, shop, kill_at):
    fill(db, {"users": [{"_id": i} for i in range(30)]})

    def tell(ctx):
        ctx.in_batches(
            "tell", "users", {}, lambda session, selected: ctx.db.told.insert_many(ctx.db.users.find(selected))
        )

    operation = RunPython(tell, batched=True)
    with kill_at(2, "inside"):
        shop.forward(operation, SMALL)
    assert db.told.count_documents({}) == 10

    assert shop.forward(operation, SMALL).as_dict() == {"inserted": 30}
    assert db.told.count_documents({}) == 30


def test_once_works_in_a_transaction_and_each_name_only_once(db, shop):
    def forward(ctx):
        assert ctx.session is None
        ctx.once("first", lambda session: ctx.db.users.insert_many([{"_id": 1}, {"_id": 2}]))
        ctx.db.users.create_index("n")  # outside of a transaction it is the plain collection
        ctx.once(ctx.db.users.find_one()["again"] if ctx.db.users.count_documents({}) > 2 else "second", lambda s: None)
        ctx.count("matched", 5)

    assert shop.forward(RunPython(forward, batched=True)).as_dict() == {"inserted": 2, "matched": 5}
    assert "n_1" in db.users.index_information()

    def twice(ctx):
        ctx.once("same", lambda session: None)
        ctx.in_batches("same", "users", {}, {"$set": {"a": 1}})

    with pytest.raises(OperationError, match="'same' is used twice"):
        shop.forward(RunPython(twice, batched=True))


def test_the_preview_of_a_function_counts_and_never_writes(db, read_only):
    fill(db, {"users": [{"_id": i, "n": i} for i in range(10)]})
    before = content(db)

    def good(ctx):
        assert ctx.counting
        assert ctx.db.users.find_one({"_id": 3}) == {"_id": 3, "n": 3}
        ctx.in_batches("a", "users", {"n": {"$lt": 4}}, {"$inc": {"n": 1}})
        ctx.once("b", lambda session: ctx.db.users.insert_one({}))

    def direct(ctx):
        ctx.db.users.update_many({}, {"$set": {"a": 1}})

    def broken(ctx):
        raise KeyError(MARKER)

    assert RunPython(good, batched=True).preview(read_only).matched == 4
    stopped = RunPython(direct, batched=True).preview(read_only)
    assert stopped.stop == "direct() writes directly; in the plan only reads, ctx.in_batches and ctx.once are possible"
    noted = RunPython(direct).preview(read_only)
    assert (noted.stop, noted.matched) == (None, None)
    assert "it will run in one transaction" in noted.notes[0]
    assert RunPython(broken).preview(read_only).notes == (
        "broken() cannot be previewed on the database as it is (KeyError).",
    )
    assert content(db) == before


def test_insert_documents_recognises_its_own_work(db, shop):
    operation = InsertDocuments("levels", LEVELS)
    assert operation.is_done(db) is False
    assert shop.forward(operation).as_dict() == {"inserted": 3}
    assert operation.is_done(db) is True
    assert shop.forward(operation).as_dict() == {"matched": 3}
    assert canonical(db.levels.find_one({"_id": 7})) == canonical(LEVELS[2])
