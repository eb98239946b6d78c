"""Every catalogue operation on a real server: previewed, done, done again, undone, undone again, and done once more."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from bson import SON, Int64, Regex
from pymongo import MongoClient
from pymongo.errors import DuplicateKeyError, WriteError

from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.base import Bench, Operation, OperationError
from mongo_ops.migrations.operations.create_collection import CreateCollection
from mongo_ops.migrations.operations.create_index import CreateIndex, Standing
from mongo_ops.migrations.operations.drop_collection import DropCollection
from mongo_ops.migrations.operations.drop_index import DropIndex
from mongo_ops.migrations.operations.rename_collection import RenameCollection
from mongo_ops.migrations.operations.run_command import RunCommand
from mongo_ops.migrations.operations.set_validator import SetValidator
from mongo_ops.mongo.batches import Counts
from mongo_ops.mongo.documents import set_digest
from mongo_ops.mongo.lease import LeaseLostError

sys.path.insert(0, str(Path(__file__).parent))
from bench import Workshop

SCHEMA = {"$jsonSchema": {"bsonType": "object", "required": ["title"], "properties": {"title": {"bsonType": "string"}}}}
GERMAN = {"locale": "de", "strength": 2}
AT = datetime(2026, 11, 1, tzinfo=UTC)


def picture(db) -> dict[str, Any]:
    """Everything about the database but the engine's own collections: types, options, indexes, digests of documents."""
    names = [c["name"] for c in db.list_collections() if not c["name"].startswith(("ops_", "system."))]
    return {name: portrait(db, name) for name in names}


def portrait(db, name):
    listed = catalogue.collection(db, name)
    indexes = sorted(repr(list(index.spec.items())) for index in catalogue.indexes(db, name))
    return listed.type, catalogue.options_form(listed.options), indexes, set_digest(db[name].find())


def changes(db) -> int:
    """How many entries the oplog has for this database, the engine's own collections left out."""
    return db.client.local["oplog.rs"].count_documents({"ns": {"$regex": rf"^{db.name}\.(?!ops_)"}})


def bench(db, found=None, check=lambda: None) -> Bench:
    return Bench(db, None, found or {}, None, None, check, None)


def carry_out(db, operation: Operation) -> dict[str, Any]:
    """Carry an operation out and return what it had observed."""
    found = dict(operation.observe(db))
    operation.forward(bench(db, found))
    return found


def undo(db, operation: Operation, found) -> None:
    operation.reverse(bench(db, found))


def refusal(act: Callable[[], Any]) -> str:
    with pytest.raises(OperationError) as caught:
        act()
    return str(caught.value)


def tracks(db, count=3):
    db.tracks.insert_many([{"_id": n, "title": f"t{n}", "plays": n, "at": AT} for n in range(count)])


def indexed(db):
    tracks(db)
    db.tracks.create_index([("title", 1), ("plays", -1)], name="by_title", sparse=True, hidden=True)


def validated(db):
    db.create_collection(
        "tracks", validator={"plays": {"$gte": 0}}, validationLevel="moderate", validationAction="warn"
    )
    tracks(db)


def full_house(db):
    db.create_collection("tracks", validator=SCHEMA, collation=GERMAN, validationLevel="moderate")
    tracks(db)
    db.tracks.create_index([("title", 1)], name="inherits")
    db.tracks.create_index([("title", 1)], name="plain", collation={"locale": "simple"}, unique=True)
    db.tracks.create_index([("words", "text")], name="text", collation={"locale": "simple"}, weights={"words": 4})
    db.tracks.create_index([("at", 1)], name="old", expireAfterSeconds=10**9)


def measured(db):
    series = {"timeField": "at", "metaField": "who", "granularity": "minutes"}
    db.create_collection("tracks", timeseries=series, expireAfterSeconds=10**9)
    db.tracks.insert_many([{"_id": n, "at": AT, "who": {"id": n}, "value": n} for n in range(3)])
    db.tracks.create_index([("who.id", 1), ("at", -1)], name="by_who")


def clustered(db):
    db.command({"create": "tracks", "clusteredIndex": {"key": {"_id": 1}, "unique": True, "name": "by_id"}})
    tracks(db)
    db.tracks.create_index("plays")


@dataclass(frozen=True)
class Case:
    """One operation, the database it meets, and what looking can tell after undoing it."""

    operation: Operation
    prepare: Callable[[Any], Any] = lambda db: None
    recognised_undone: bool | None = True
    recognised_done: bool | None = True
    loses_documents: bool = False

    def __str__(self) -> str:
        return re.sub(r"\W+", "-", self.operation.describe())[:60] + f"-{getattr(self.prepare, '__name__', '')}"


def index(*keys, **options) -> Case:
    return Case(CreateIndex("tracks", keys, **options), tracks)


CREATIONS = [
    Case(CreateCollection("tracks")),
    Case(CreateCollection("tracks", SCHEMA, level="moderate", action="warn", pre_and_post_images=True)),
    Case(CreateCollection("tracks", capped={"size": 5000})),
    Case(CreateCollection("tracks", capped={"size": 10_000, "max": 7})),
    Case(CreateCollection("tracks", timeseries={"timeField": "at"})),
    Case(
        CreateCollection(
            "tracks",
            timeseries={"timeField": "at", "metaField": "who", "granularity": "hours"},
            expire_after_seconds=3600,
            collation={"locale": "fr_CA"},
        )
    ),
    Case(CreateCollection("tracks", clustered=True)),
    Case(CreateCollection("tracks", clustered=True, expire_after_seconds=3600)),
    Case(CreateCollection("tracks", collation=GERMAN)),
    Case(CreateCollection("tracks", collation={"locale": "simple"})),
]
INDEXES = [
    index(("title", 1)),
    index(("title", 1), ("plays", -1), name="mine", unique=True),
    index(("title", 1), sparse=True, hidden=True),
    index(("at", 1), ttl_seconds=10**9),
    index(("title", 1), partial={"plays": {"$gt": Int64(1)}, "title": {"$exists": True}}, unique=True),
    index(("title", 1), collation=GERMAN),
    index(("title", 1), collation={"locale": "fr_CA"}),
    index(("title", 1), collation={"locale": "th", "numericOrdering": True}),
    index(("title", "text"), default_language="none"),
    index(
        ("plays", 1), ("title", "text"), ("lyrics", "text"), ("at", -1), weights={"title": 10}, language_override="lang"
    ),
    index(("title", "text"), weights={"title": 2, "notes": 3}),
    index(("$**", "text")),
    index(("where", "2dsphere")),
    index(("where", "2dsphere"), ("plays", 1)),
    index(("where", "2d")),
    index(("title", "hashed"), ("plays", 1)),
    index(("$**", 1), wildcard_projection={"title": 1, "a.b": 1}),
    index(("$**", 1), wildcard_projection={"title": 0, "_id": 0}),
    index(("meta.$**", 1)),
    Case(CreateIndex("tracks", [("plays", 1), ("title", 1)]), full_house),
    Case(CreateIndex("tracks", [("plays", 1)], collation={"locale": "simple"}), full_house),
    Case(CreateIndex("tracks", [("where", "2d")], name="flat"), full_house),
    Case(CreateIndex("tracks", [("who", 1), ("at", 1)], partial={"who.id": {"$gt": 1}}), measured),
    Case(CreateIndex("tracks", [("who", 1), ("where", "2dsphere")]), measured),
    Case(CreateIndex("tracks", [("title", 1)], commit_quorum=1), clustered),
]
OTHERS = [
    Case(SetValidator("tracks", SCHEMA), tracks),
    Case(SetValidator("tracks", SCHEMA), validated),
    Case(SetValidator("tracks", {"title": {"$regex": "^t", "$ne": "x"}}, level="off", action="warn"), validated),
    Case(SetValidator("tracks", None), validated),
    Case(DropIndex("tracks", "by_title"), indexed),
    *(Case(DropIndex("tracks", name), full_house) for name in ("inherits", "plain", "text", "old")),
    Case(DropIndex("tracks", "by_who"), measured),
    *(
        Case(DropCollection("tracks"), p, None, loses_documents=True)
        for p in (full_house, indexed, measured, clustered)
    ),
    Case(RenameCollection("tracks", "songs"), full_house),
    Case(RenameCollection("tracks", "songs"), clustered),
    Case(
        RunCommand(
            {"update": "tracks", "updates": [{"q": {"_id": 1}, "u": {"$set": {"plays": 7}}}]},
            reverse_command={"update": "tracks", "updates": [{"q": {"_id": 1}, "u": {"$set": {"plays": 1}}}]},
        ),
        tracks,
        None,
        None,
    ),
]


@pytest.mark.parametrize("case", [*CREATIONS, *INDEXES, *OTHERS], ids=str)
def test_every_operation_goes_forward_and_back_and_may_be_repeated(db, case):
    case.prepare(db)
    operation, shop = case.operation, Workshop(db)
    before, written = picture(db), changes(db)
    documents = {name: list(db[name].find()) for name in before}

    operation.preview(db)
    assert (picture(db), changes(db)) == (before, written), "the preview wrote something"
    assert operation.is_done(db) is (False if case.recognised_done else None)

    shop.forward(operation)
    found, after = shop.found[id(operation)], picture(db)
    assert operation.is_done(db) is case.recognised_done
    assert operation.is_undone(db) is not True
    assert after != before

    written = changes(db)
    shop.forward(operation)
    assert (picture(db), changes(db)) == (after, written), "the second run wrote something"

    for _ in ("once", "again"):
        shop.found[id(operation)] = found
        shop.reverse(operation)
        if case.loses_documents:
            restore(db, documents)
        assert picture(db) == before
        assert operation.is_undone(db) is case.recognised_undone
        assert operation.is_done(db) is not True

    shop.forward(operation)
    assert picture(db) == after


def restore(db, documents):
    """What the engine does from its snapshot after the reverse of an operation that destroys."""
    for name, kept in documents.items():
        if not db[name].find_one():
            db[name].insert_many(kept, bypass_document_validation=True)


@pytest.mark.parametrize(
    "case",
    [
        Case(CreateCollection("tracks")),
        Case(CreateCollection("tracks", SCHEMA, adopt=True), validated),
        index(("title", 1)),
        *(case for case in OTHERS if case.operation.kind != "RunCommand"),
        OTHERS[-1],
    ],
    ids=str,
)
def test_without_the_lease_nothing_is_changed_in_either_direction(db, case):
    def lost():
        raise LeaseLostError("migrations", 1)

    case.prepare(db)
    before, found = picture(db), case.operation.observe(db)

    with pytest.raises(LeaseLostError):
        case.operation.forward(bench(db, found, lost))
    assert picture(db) == before

    case.operation.forward(bench(db, found))
    after = picture(db)
    with pytest.raises(LeaseLostError):
        case.operation.reverse(bench(db, found, lost))
    assert picture(db) == after


@pytest.mark.parametrize("name", ["", "ops_leases", "system.users", "a$b", ".a", "a.", "a..b", "a\0b"])
def test_a_name_that_is_not_ours_to_touch_is_refused_by_every_operation(db, name):
    operations = [
        CreateCollection(name),
        DropCollection(name),
        SetValidator(name, SCHEMA),
        CreateIndex(name, [("a", 1)]),
        DropIndex(name, "a_1"),
        RenameCollection(name, "tracks"),
        RenameCollection("tracks", name),
        RunCommand({"create": name} if name else {"create": ".", "a": 1}),
    ]
    tracks(db)
    before = picture(db)
    for operation in operations:
        assert refusal(lambda operation=operation: operation.forward(bench(db, {}))).startswith("Refused: ")
    assert picture(db) == before


def test_what_was_never_observed_is_never_undone(db):
    validated(db)
    before = picture(db)
    for operation in (
        CreateCollection("tracks"),
        DropCollection("tracks"),
        SetValidator("tracks", SCHEMA),
        CreateIndex("tracks", [("plays", 1)]),
        DropIndex("tracks", "plays_1"),
        RenameCollection("songs", "tracks"),
    ):
        assert "was not recorded" in refusal(lambda operation=operation: undo(db, operation, {}))
    assert picture(db) == before


class TestCreateCollection:
    def test_other_options_are_refused_and_named(self, db):
        db.create_collection("tracks", validator=SCHEMA, collation=GERMAN, capped=True, size=8192)
        operation = CreateCollection(
            "tracks", {"$jsonSchema": {"bsonType": "object", "required": ["name"]}}, level="off"
        )

        text = refusal(lambda: carry_out(db, operation))

        assert 'validationLevel: wanted "off", is "strict"' in text
        assert 'validator.$jsonSchema.required: wanted ["name"], is ["title"]' in text
        assert "validator.$jsonSchema.properties: wanted nothing, is" in text
        assert "size: wanted nothing, is 8192" in text
        assert "collation: wanted nothing, is" in text
        assert operation.preview(db).stop == text

    def test_an_existing_one_with_the_same_options_is_left_alone_and_never_dropped(self, db):
        full_house(db)
        operation, before = CreateCollection("tracks", SCHEMA, level="moderate", collation=GERMAN), picture(db)

        undo(db, operation, carry_out(db, operation))

        assert picture(db) == before
        assert "already exists" in operation.preview(db).notes[0]

    def test_adoption_changes_the_validator_and_undoing_gives_the_former_one_back(self, db):
        validated(db)
        before = picture(db)
        operation = CreateCollection("tracks", SCHEMA, pre_and_post_images=True, adopt=True)
        assert operation.is_done(db) is False

        found = carry_out(db, operation)

        assert operation.is_done(db) is True
        assert db.tracks.options()["validator"] == SCHEMA
        assert db.tracks.options()["changeStreamPreAndPostImages"] == {"enabled": True}
        with pytest.raises(WriteError):
            db.tracks.insert_one({"plays": 1})
        undo(db, operation, found)
        assert picture(db) == before

    def test_adoption_is_refused_while_documents_do_not_conform(self, db):
        validated(db)
        db.tracks.insert_one({"_id": "secret-id", "plays": 1})
        operation, before = CreateCollection("tracks", SCHEMA, adopt=True), picture(db)

        text = refusal(lambda: carry_out(db, operation))

        assert "1 documents of tracks do not conform" in text
        assert "secret-id" not in text
        assert operation.preview(db).stop == text
        assert picture(db) == before

    def test_adoption_is_refused_for_what_cannot_be_changed_in_place(self, db):
        validated(db)
        operation = CreateCollection("tracks", SCHEMA, capped={"size": 4096}, adopt=True)

        text = refusal(lambda: carry_out(db, operation))

        assert "capped: wanted true, is nothing" in text
        assert "validator" not in text
        assert "cannot be changed in place" in text

    def test_a_view_of_that_name_is_a_conflict(self, db):
        tracks(db)
        db.command({"create": "top", "viewOn": "tracks", "pipeline": [{"$limit": 1}]})
        assert 'viewOn: wanted nothing, is "tracks"' in refusal(
            lambda: carry_out(db, CreateCollection("top", adopt=True))
        )

    def test_the_server_refuses_impossible_options_in_our_words(self, db):
        text = refusal(lambda: carry_out(db, CreateCollection("tracks", SCHEMA, timeseries={"timeField": "at"})))
        assert "InvalidOptions, code 72" in text
        assert "not allowed with" in text


class TestDropCollection:
    def test_the_plan_says_how_much_is_lost_and_who_reads_it(self, db):
        tracks(db, 12)
        db.command({"create": "top", "viewOn": "tracks", "pipeline": []})

        preview = DropCollection("tracks").preview(db)

        assert (preview.matched, preview.risk) == (12, "high")
        assert preview.notes[0].startswith("12 documents (")
        assert preview.notes[1] == "The view top reads tracks and will be empty."
        assert [loss.collection for loss in DropCollection("tracks").forward_destroys()] == ["tracks"]

    def test_it_counts_what_it_deleted_and_observed_the_same(self, db):
        tracks(db, 12)
        operation = DropCollection("tracks")
        assert operation.observe(db)["count"] == 12
        assert operation.forward(bench(db)) == Counts(deleted=12)
        assert operation.forward(bench(db)) == Counts()

    def test_a_killed_reverse_is_completed(self, db):
        full_house(db)
        before, operation = picture(db), DropCollection("tracks")
        documents = list(db.tracks.find())
        found = carry_out(db, operation)
        options = catalogue.recreate_options(catalogue.recall(found["options"]))
        db.command({"create": "tracks", **options})  # and then it was killed

        undo(db, operation, found)

        restore(db, {"tracks": documents})
        assert picture(db) == before

    def test_dropping_what_was_never_there_is_undone_to_nothing(self, db):
        operation = DropCollection("tracks")
        undo(db, operation, carry_out(db, operation))
        assert picture(db) == {}

    def test_a_view_is_refused(self, db):
        db.command({"create": "top", "viewOn": "tracks", "pipeline": []})
        assert "is a view" in refusal(lambda: carry_out(db, DropCollection("top")))


class TestSetValidator:
    def bad_tracks(self, db):
        tracks(db)
        db.tracks.insert_many([{"_id": f"secret-{n}", "name": "hidden"} for n in range(4)])

    def test_it_refuses_with_the_number_and_the_query_and_no_value(self, db):
        self.bad_tracks(db)
        operation = SetValidator("tracks", SCHEMA)

        text = refusal(lambda: carry_out(db, operation))

        assert text.startswith("4 documents of tracks do not conform")
        assert "secret" not in text
        assert "hidden" not in text
        query = re.search(r"find\(\{\$nor: \[(.*)\]\}\)", text).group(1)
        assert '"required": ["title"]' in query
        assert "validator" not in db.tracks.options()
        preview = operation.preview(db)
        assert (preview.rejected, preview.scanned, preview.scan, preview.risk) == (4, 7, True, "high")
        assert preview.stop == text

    def test_so_many_may_be_accepted(self, db):
        self.bad_tracks(db)
        assert refusal(lambda: carry_out(db, SetValidator("tracks", SCHEMA, max_rejected=3)))
        carry_out(db, SetValidator("tracks", SCHEMA, max_rejected=4))
        assert db.tracks.options()["validator"] == SCHEMA

    @pytest.mark.parametrize(
        ("rules", "note"), [({"level": "moderate"}, "stay updatable"), ({"action": "warn"}, "only logs")]
    )
    def test_rules_that_leave_existing_documents_updatable_are_only_shown(self, db, rules, note):
        self.bad_tracks(db)
        operation = SetValidator("tracks", SCHEMA, **rules)

        preview = operation.preview(db)

        assert (preview.rejected, preview.stop, preview.risk) == (4, None, "medium")
        assert note in preview.notes[0]
        carry_out(db, operation)
        assert db.tracks.update_many({"name": "hidden"}, {"$set": {"touched": True}}).modified_count == 4

    def test_what_is_in_force_already_is_not_checked_again(self, db):
        self.bad_tracks(db)
        db.command({"collMod": "tracks", "validator": SCHEMA})
        reordered = {"$jsonSchema": dict(reversed(SCHEMA["$jsonSchema"].items()))}
        operation = SetValidator("tracks", reordered)

        assert operation.is_done(db) is True
        assert operation.preview(db).rejected == 0
        written = changes(db)
        carry_out(db, operation)
        assert changes(db) == written

    @pytest.mark.parametrize("other", [{"a": True}, {"a": 2}, {"b": 1}, {"a": 1, "b": 1}, {"a": "1"}, None])
    def test_another_validator_is_recognised_as_another(self, db, other):
        db.create_collection("tracks", validator={"a": 1})
        assert SetValidator("tracks", other).is_done(db) is False
        assert SetValidator("tracks", {"a": 1}, level="off").is_done(db) is False
        assert SetValidator("tracks", {"a": 1.0}).is_done(db) is True

    def test_the_former_one_comes_back_with_its_types_and_its_order(self, db):
        odd = SON([("b", {"$regex": "^x$", "$options": "i"}), ("a.c", {"$in": [Int64(1), 2.0, Regex("y", 0), AT]})])
        db.create_collection("tracks", validator=odd, validationLevel="off")
        before = db.tracks.options()
        operation = SetValidator("tracks", SCHEMA)

        undo(db, operation, carry_out(db, operation))

        after = db.tracks.options()
        assert list(after["validator"]) == ["b", "a.c"]
        assert repr(after["validator"]) == repr(before["validator"])
        assert (after["validationLevel"], after["validationAction"]) == ("off", "error")

    def test_a_missing_collection_is_refused_but_may_come_in_an_earlier_operation(self, db):
        operation = SetValidator("tracks", SCHEMA)
        assert "does not exist" in refusal(lambda: carry_out(db, operation))
        assert operation.preview(db).stop is None
        assert operation.is_done(db) is None


class TestCreateIndex:
    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"keys": [("plays", 1)]}, "key: wanted"),
            ({"unique": True}, "unique: wanted true, is nothing"),
            ({"sparse": True}, "sparse: wanted true"),
            ({"hidden": True}, "hidden: wanted true"),
            ({"ttl_seconds": 0}, "expireAfterSeconds: wanted 0, is nothing"),
            ({"partial": {"plays": 1}}, 'partialFilterExpression: wanted {"plays": 1}, is nothing'),
            ({"collation": GERMAN}, "collation: wanted"),
        ],
    )
    def test_the_same_name_with_another_definition_is_refused_and_named(self, db, other, said):
        tracks(db)
        db.tracks.create_index([("title", 1)], name="mine")
        operation = CreateIndex(**{"collection": "tracks", "keys": [("title", 1)], "name": "mine", **other})

        text = refusal(lambda: carry_out(db, operation))

        assert said in text
        assert operation.preview(db).stop == text
        assert operation.is_done(db) is False

    def test_a_collation_with_other_strength_than_the_default_is_another_one(self, db):
        tracks(db)
        db.tracks.create_index([("title", 1)], name="mine", collation={"locale": "en", "strength": 1})
        assert "collation.strength: wanted 3, is 1" in refusal(
            lambda: carry_out(db, CreateIndex("tracks", [("title", 1)], name="mine", collation={"locale": "en"}))
        )

    def test_the_same_keys_under_another_name_are_refused(self, db):
        indexed(db)
        operation = CreateIndex("tracks", [("title", 1), ("plays", -1)], name="again", sparse=True)
        assert "under the name by_title" in refusal(lambda: carry_out(db, operation))
        assert "under the name _id_" in refusal(lambda: carry_out(db, CreateIndex("tracks", [("_id", 1)])))

    def test_the_same_keys_with_other_semantics_may_stand_beside(self, db):
        tracks(db)
        db.tracks.create_index([("title", 1)])
        for operation in (
            CreateIndex("tracks", [("title", 1)], name="unique", unique=True),
            CreateIndex("tracks", [("title", 1)], name="german", collation=GERMAN),
            CreateIndex("tracks", [("title", 1)], name="some", partial={"plays": {"$gt": 1}}),
        ):
            carry_out(db, operation)
            assert operation.is_done(db) is True

    def test_an_index_that_was_there_before_is_never_dropped(self, db):
        tracks(db)
        db.tracks.create_index([("title", 1)])
        operation, before = CreateIndex("tracks", [("title", 1)]), picture(db)
        undo(db, operation, carry_out(db, operation))
        assert picture(db) == before

    def test_an_index_that_somebody_replaced_is_not_dropped(self, db):
        tracks(db)
        operation = CreateIndex("tracks", [("title", 1)])
        found = carry_out(db, operation)
        db.tracks.drop_index("title_1")
        db.tracks.create_index([("title", 1)], sparse=True)
        assert "not the index this operation built" in refusal(lambda: undo(db, operation, found))

    def test_a_missing_collection_is_refused_rather_than_created(self, db):
        operation = CreateIndex("tracks", [("title", 1)])
        assert "does not exist" in refusal(lambda: carry_out(db, operation))
        assert operation.preview(db).stop is None
        assert picture(db) == {}

    def test_the_plan_says_how_much_is_read_and_how_long(self, db):
        tracks(db, 300)
        preview = CreateIndex("tracks", [("title", 1)], ttl_seconds=5).preview(db)
        assert (preview.scanned, preview.seconds, preview.scan, preview.risk) == (300, 300 / 150_000, True, "high")
        assert re.match(r"The build reads 300 documents \([\d,]+ bytes\)", preview.notes[0])

    def test_the_plan_counts_the_buckets_of_a_time_series(self, db):
        measured(db)
        assert CreateIndex("tracks", [("who", 1)]).preview(db).scanned == 3

    def test_values_of_documents_never_show_in_a_refusal(self, db):
        db.tracks.insert_one({"where": {"type": "Point", "coordinates": ["secret", "place"]}})
        text = refusal(lambda: carry_out(db, CreateIndex("tracks", [("where", "2dsphere")])))
        assert "secret" not in text
        assert "16755" in text


DUPLICATES = [
    # documents, keys, options, duplicated keys
    ([{"a": 1}, {"a": 1}, {"a": 2}], ["a"], {}, 1),
    ([{"a": 1}, {"a": 1.0}, {"a": "1"}], ["a"], {}, 1),
    ([{"a": 1}, {"a": 1}, {"a": 2}, {"a": 2}, {"a": 3}], ["a"], {}, 2),
    ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], ["a", "b"], {}, 0),
    ([{"a": 1, "b": 1}, {"a": 1, "b": 1}], ["a", "b"], {}, 1),
    ([{}, {"a": None}], ["a"], {}, 1),
    ([{"a": 1}, {"a": True}], ["a"], {}, 0),
    ([{}, {}], ["a"], {"sparse": True}, 0),
    ([{"a": None}, {"a": None}, {}], ["a"], {"sparse": True}, 1),
    ([{"a": 1}, {"a": 1}, {}, {}], ["a", "b"], {"sparse": True}, 1),
    ([{"a": 1, "b": 1}, {"a": 1, "b": 2}], ["a"], {"partial": {"b": {"$gt": 1}}}, 0),
    ([{"a": 1, "b": 2}, {"a": 1, "b": 2}], ["a"], {"partial": {"b": {"$gt": 1}}}, 1),
    ([{"a": "x"}, {"a": "X"}], ["a"], {}, 0),
    ([{"a": "x"}, {"a": "X"}], ["a"], {"collation": {"locale": "en", "strength": 2}}, 1),
    ([{"a": [1, 2]}, {"a": [2, 3]}], ["a"], {}, 1),
    ([{"a": [1, 2]}, {"a": 2}], ["a"], {}, 1),
    ([{"a": [1, 1]}, {"a": 2}], ["a"], {}, 0),
    ([{"a": []}, {}], ["a"], {}, 0),
    ([{"a": []}, {"a": []}], ["a"], {}, 1),
    ([{"a": []}, {"a": []}], ["a"], {"sparse": True}, 1),
    ([{"a": [{"b": 1}, {"b": 2}]}, {"a": {"b": 2}}], ["a.b"], {}, 1),
    ([{"a": [{"b": [1, 5]}, {"b": 2}]}, {"a": {"b": 5}}], ["a.b"], {}, 1),
    ([{"a": [{"b": 1, "c": 2}, {"b": 2, "c": 1}]}, {"a": [{"b": 1, "c": 1}]}], ["a.b", "a.c"], {}, 0),
    ([{"a": [{"b": 1, "c": 2}]}, {"a": [{"b": 0, "c": 0}, {"b": 1, "c": 2}]}], ["a.b", "a.c"], {}, 1),
    ([{"a": []}, {"a": {}}], ["a.b"], {}, 1),
    ([{"a": {"x": 1, "y": 2}}, {"a": {"y": 2, "x": 1}}], ["a"], {}, 0),
    ([{"a": [{"b": 1}, {}]}, {"a": [{"b": 2}, {}]}], ["a.b"], {"sparse": True}, 0),
]


def server_refuses(db, operation) -> bool:
    try:
        db.command({"createIndexes": "tracks", "indexes": [operation.spec()]})
    except DuplicateKeyError:
        return True
    return False


class TestDuplicates:
    @pytest.mark.parametrize(("documents", "keys", "options", "expected"), DUPLICATES)
    def test_the_search_agrees_with_the_server(self, db, documents, keys, options, expected):
        db.tracks.insert_many([dict(document) for document in documents])
        operation = CreateIndex("tracks", [(key, 1) for key in keys], unique=True, **options)

        assert operation.duplicates(db) == expected

        assert server_refuses(db, operation) is (expected > 0)

    @pytest.mark.parametrize("path", ["a.0", "a.1.b"])
    def test_positional_paths_are_left_to_the_server(self, db, path):
        db.tracks.insert_many([{"a": [1, 5]}, {"a": [2, 5]}])
        operation = CreateIndex("tracks", [(path, 1)], unique=True)
        assert operation.duplicates(db) == 0
        assert server_refuses(db, operation) is (path == "a.1.b")

    def test_a_unique_index_over_duplicates_is_refused_before_it_is_built(self, db):
        db.tracks.insert_many([{"mail": f"secret{n % 5}"} for n in range(10)])
        operation, before, written = CreateIndex("tracks", [("mail", 1)], unique=True), picture(db), changes(db)

        text = refusal(lambda: carry_out(db, operation))

        assert "5 keys occur in more than one document" in text
        assert "secret" not in text
        assert operation.preview(db).stop == text
        assert (picture(db), changes(db)) == (before, written)

    def test_a_duplicate_that_only_the_server_sees_is_refused_without_its_value(self, db):
        db.tracks.insert_many([{"_id": "A", "mail": "secret"}, {"_id": "a", "mail": "secret"}])
        operation = CreateIndex("tracks", [("mail", 1)], unique=True, collation={"locale": "en", "strength": 2})
        assert operation.duplicates(db) == 0  # the ids differ only in what the collation ignores

        text = refusal(lambda: carry_out(db, operation))

        assert "documents with equal keys exist" in text
        assert "secret" not in text

    def test_very_many_are_not_counted_to_the_end(self, db):
        db.tracks.insert_many([{"a": n // 2} for n in range(2400)])
        assert "1,000 or more keys" in refusal(lambda: carry_out(db, CreateIndex("tracks", [("a", 1)], unique=True)))


def build(uri, name):
    """What a worker does, in a process of its own."""
    with MongoClient(uri) as client:
        CreateIndex("tracks", [("title", 1)]).forward(bench(client[name]))


def until(holds, seconds=20.0):
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def held_build(db, replica_set):
    """A build of title_1 that a worker began, that hangs in the server, and whose worker is then killed."""
    tracks(db, 500)
    point = {"configureFailPoint": "hangAfterStartingIndexBuild"}
    db.client.admin.command({**point, "mode": "alwaysOn"})

    def let_go():
        db.client.admin.command({**point, "mode": "off"})

    def begin(how):
        worker = multiprocessing.get_context("spawn").Process(target=build, args=(replica_set.uri, db.name))
        worker.start()
        until(lambda: catalogue.storage(db, "tracks")["indexBuilds"])
        os.kill(worker.pid, how)
        worker.join(20)
        return let_go

    yield begin
    let_go()


class TestKilledBuild:
    def test_an_unfinished_build_is_not_taken_for_an_index(self, db, held_build):
        let_go = held_build(signal.SIGKILL)
        operation = CreateIndex("tracks", [("title", 1)])

        assert operation.standing(db)[0] is Standing.BUILDING
        assert operation.is_done(db) is False
        assert operation.observe(db) == {"existed": False}
        assert "is being built already" in operation.preview(db).notes[1]
        assert DropIndex("tracks", "title_1").is_undone(db) is None
        let_go()

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
    def test_the_next_run_joins_it_and_waits(self, db, held_build, how):
        let_go = held_build(how)
        operation = CreateIndex("tracks", [("title", 1)])
        joined = threading.Thread(target=lambda: operation.forward(bench(db)))
        joined.start()
        time.sleep(0.3)
        assert joined.is_alive()

        let_go()
        joined.join(20)

        assert not joined.is_alive()
        assert operation.is_done(db) is True
        assert sorted(db.tracks.index_information()) == ["_id_", "title_1"]
        assert (
            db.tracks.find().hint("title_1").explain()["queryPlanner"]["winningPlan"]["inputStage"]["stage"] == "IXSCAN"
        )

    def test_undoing_the_drop_of_an_index_waits_for_a_killed_rebuild(self, db, held_build):
        let_go = held_build(signal.SIGKILL)
        operation = DropIndex("tracks", "title_1")
        spec = {"v": 2, "key": {"title": 1}, "name": "title_1"}
        rebuilt = threading.Thread(target=lambda: undo(db, operation, {"index": catalogue.note(spec)}))
        rebuilt.start()
        time.sleep(0.3)
        assert rebuilt.is_alive()

        let_go()
        rebuilt.join(20)

        assert operation.is_undone(db) is True

    def test_undoing_aborts_it(self, db, held_build):
        let_go = held_build(signal.SIGKILL)
        operation = CreateIndex("tracks", [("title", 1)])
        undone = threading.Thread(target=lambda: undo(db, operation, {"existed": False}))
        undone.start()
        time.sleep(0.3)
        let_go()
        undone.join(20)
        assert operation.is_undone(db) is True
        assert list(db.tracks.index_information()) == ["_id_"]


class TestDropIndex:
    def test_the_plan_says_whether_it_is_used(self, db):
        tracks(db)
        db.tracks.create_index("title", name="used")
        db.tracks.create_index("plays", name="idle")
        for _ in range(3):
            list(db.tracks.find({"title": "t1"}))

        assert DropIndex("tracks", "used").preview(db).notes == (
            "The index used of tracks served 3 operations since the server started.",
        )
        assert DropIndex("tracks", "used").preview(db).risk == "medium"
        assert (DropIndex("tracks", "idle").preview(db).notes, DropIndex("tracks", "idle").preview(db).risk) == (
            (),
            "low",
        )
        assert "nothing to drop" in DropIndex("tracks", "none").preview(db).notes[0]

    def test_one_that_was_never_there_is_not_built_by_undoing(self, db):
        tracks(db)
        operation, before = DropIndex("tracks", "none"), picture(db)
        undo(db, operation, carry_out(db, operation))
        assert picture(db) == before

    @pytest.mark.parametrize("name", ["_id_", "*"])
    def test_the_id_index_and_all_at_once_are_refused(self, db, name):
        full_house(db)
        before = picture(db)
        assert "cannot be dropped" in refusal(lambda: carry_out(db, DropIndex("tracks", name)))
        assert picture(db) == before

    def test_a_unique_index_that_no_longer_fits_is_refused_without_values(self, db):
        tracks(db)
        db.tracks.create_index("title", unique=True)
        operation = DropIndex("tracks", "title_1")
        found = carry_out(db, operation)
        db.tracks.update_many({}, {"$set": {"title": "secret"}})
        text = refusal(lambda: undo(db, operation, found))
        assert "documents with equal keys" in text
        assert "secret" not in text


class TestRenameCollection:
    def test_an_existing_collection_is_never_overwritten(self, db):
        tracks(db)
        db.songs.insert_one({"_id": 1})
        before = picture(db)
        text = refusal(lambda: carry_out(db, RenameCollection("tracks", "songs")))
        assert "songs exists already" in text
        assert RenameCollection("tracks", "songs").preview(db).stop == text
        assert picture(db) == before

    def test_the_plan_names_the_views_that_lose_their_source(self, db):
        tracks(db)
        db.command({"create": "top", "viewOn": "tracks", "pipeline": []})
        notes = RenameCollection("tracks", "songs").preview(db).notes
        assert notes == (
            "Whoever reads or writes tracks must use the name songs from that moment on.",
            "The view top reads tracks and will be empty.",
        )

    def test_what_was_never_there_is_refused_but_may_come_in_an_earlier_operation(self, db):
        assert "does not exist" in refusal(lambda: carry_out(db, RenameCollection("tracks", "songs")))
        assert RenameCollection("tracks", "songs").preview(db).stop is None

    def test_views_and_time_series_cannot_be_renamed(self, db):
        measured(db)
        db.command({"create": "top", "viewOn": "tracks", "pipeline": []})
        assert "is a timeseries" in refusal(lambda: carry_out(db, RenameCollection("tracks", "songs")))
        assert "is a view" in refusal(lambda: carry_out(db, RenameCollection("top", "songs")))

    def test_a_name_taken_by_another_application_is_not_renamed_away_by_undoing(self, db):
        db.songs.insert_one({"_id": 1})
        operation = RenameCollection("tracks", "songs")
        found = dict(operation.observe(db))
        operation.forward(bench(db, found))  # looks done: the new name is there and the old one is not

        undo(db, operation, found)

        assert list(picture(db)) == ["songs"]


class TestRunCommand:
    def run(self, db, command):
        return RunCommand(command).forward(bench(db))

    def test_the_counts_are_read_from_the_answer(self, db):
        tracks(db, 5)
        update = {"q": {"plays": {"$gte": 3}}, "u": {"$set": {"top": True}}, "multi": True}
        upsert = {"q": {"_id": "new"}, "u": {"$set": {"top": False}}, "upsert": True}
        assert self.run(db, {"update": "tracks", "updates": [update, upsert]}) == Counts(
            matched=2, modified=2, inserted=1
        )
        assert self.run(db, {"insert": "tracks", "documents": [{}, {}]}) == Counts(inserted=2)
        delete = {"delete": "tracks", "deletes": [{"q": {"top": True}, "limit": 0}]}
        assert self.run(db, delete) == Counts(matched=2, deleted=2)
        assert self.run(db, {"ping": 1}) == Counts()

    def test_refused_writes_are_an_error_without_values(self, db):
        tracks(db)
        text = refusal(lambda: self.run(db, {"insert": "tracks", "documents": [{"_id": 1, "mail": "secret"}]}))
        assert text == "Run the command insert on tracks: 1 writes were refused (codes 11000)."

    def test_an_unknown_command_is_refused_in_our_words(self, db):
        assert "CommandNotFound, code 59" in refusal(lambda: self.run(db, {"fly": 1}))

    def test_writes_wait_for_the_majority(self, db, monkeypatch):
        sent = []
        monkeypatch.setattr(type(db), "command", lambda self, command, *a, **k: sent.append(command) or {"n": 0})
        self.run(db, {"insert": "tracks", "documents": [{}]})
        self.run(db, {"ping": 1})
        assert sent == [{"insert": "tracks", "documents": [{}], "writeConcern": {"w": "majority"}}, {"ping": 1}]

    def test_an_empty_command_is_refused(self, db):
        assert refusal(lambda: self.run(db, {})) == "The command is empty."

    def test_the_plan_does_not_pretend_to_know(self, db):
        assert RunCommand({"ping": 1}).preview(db).matched is None


def test_an_interruption_by_the_server_asks_for_a_retry(db):
    from mongo_ops.errors import RunError

    tracks(db)
    point = {"configureFailPoint": "failCommand", "mode": {"times": 1}}
    db.client.admin.command({**point, "data": {"failCommands": ["createIndexes"], "errorCode": 11601}})
    operation = CreateIndex("tracks", [("title", 1)])
    with pytest.raises(RunError, match="Run again"):
        operation.forward(bench(db))
    operation.forward(bench(db))
    assert operation.is_done(db) is True
