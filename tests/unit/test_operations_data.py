"""Operations on documents as values: what they say, what the linter says about them, what makes two of them equal."""

from __future__ import annotations

import subprocess
import sys

import pytest

from mongo_ops.migrations.operations import fields
from mongo_ops.migrations.operations.add_field import AddField
from mongo_ops.migrations.operations.backfill import Backfill
from mongo_ops.migrations.operations.base import Mode, OperationError
from mongo_ops.migrations.operations.convert_field import ConvertField
from mongo_ops.migrations.operations.copy_documents import CopyDocuments
from mongo_ops.migrations.operations.insert_documents import InsertDocuments
from mongo_ops.migrations.operations.move_documents import MoveDocuments
from mongo_ops.migrations.operations.remove_field import RemoveField
from mongo_ops.migrations.operations.rename_field import RenameField
from mongo_ops.migrations.operations.run_python import RunPython, counts_of
from mongo_ops.mongo.batches import Counts


def forward(ctx):
    ctx.db.users.update_one({}, {"$set": {"a": 1}})


def other(ctx):
    ctx.db.users.update_one({}, {"$set": {"a": 2}})


WHERE = {"$or": [{"email": "ada@example.org"}, {"plan": "x"}]}

DESCRIPTIONS = [
    (AddField("users", "plan", value="free"), "Set plan to 'free' in documents of users that lack it"),
    (AddField("users", "a.b", expression="$c", where=WHERE), "Set a.b to the result of an expression in documents of users where email, plan match that lack it"),
    (RenameField("users", "a", "b.c"), "Rename a to b.c in the documents of users that have it"),
    (RemoveField("users", "a"), "Remove a from documents of users, keeping its values"),
    (ConvertField("users", "age", "int"), "Convert age of users to int; stop if any cannot be"),
    (ConvertField("users", "age", "int", on_error="keep"), "Convert age of users to int; keep those that cannot be"),
    (Backfill("users", {"$min": {"a.b": 1}, "$set": {"c": 1}}), "Update a, c in documents of users (no way back)"),
    (Backfill("users", [{"$replaceWith": "$x"}], revert="snapshot"), "Update whole documents in documents of users (way back: snapshot)"),
    (Backfill("users", {"$inc": {"n": 1}}, where=WHERE, revert={"$inc": {"n": -1}}), "Update n in documents of users where email, plan match (way back: an update)"),
    (CopyDocuments("a", "b", pipeline=[{"$unset": "x"}]), "Copy documents of a into b, reshaped"),
    (MoveDocuments("a", "b", where={"n": 1}), "Move documents of a where n match into b"),
    (InsertDocuments("levels", [{"_id": 1}, {"_id": 2}]), "Insert 2 documents into levels by _id, refusing what differs"),
    (InsertDocuments("levels", [{"c": 1}], key=("c",), upsert=True), "Insert 1 documents into levels by c, replacing what differs"),
    (RunPython(forward, collections=("users",)), "Run forward() on users, in one transaction"),
    (RunPython(forward, batched=True), "Run forward(), in exactly-once steps"),
]  # fmt: skip


@pytest.mark.parametrize(("operation", "text"), DESCRIPTIONS, ids=[text for _, text in DESCRIPTIONS])
def test_each_operation_says_in_one_line_what_it_does_and_names_no_value_of_a_filter(operation, text):
    assert operation.describe() == text
    assert list(operation.lint()) == []


FAULTS = [
    (AddField("users", "", value=1), ["MO303"]),
    (AddField("users", "a..b", value=1), ["MO303"]),
    (AddField("users", "a.$x", value=1), ["MO303"]),
    (AddField("users", "tags.0", value=1), ["MO303"]),
    (AddField("users", "_id", value=1), ["MO304"]),
    (AddField("users", "a", value=1, expression="$b"), ["MO306"]),
    (AddField("users", "a", expression={"$function": {"body": "f", "args": [], "lang": "js"}}), ["MO305"]),
    (AddField("users", "a", value=1, where={"$or": [{"$where": "1"}]}), ["MO305"]),
    (RenameField("users", "a", "a"), ["MO307"]),
    (RenameField("users", "a", "a.b"), ["MO307"]),
    (RenameField("users", "a.b", "a"), ["MO307"]),
    (RenameField("users", "a", "ab"), []),
    (RenameField("users", "_id", "key"), ["MO304"]),
    (RemoveField("users", "_id.a"), ["MO304"]),
    (RemoveField("users", "a", where={"$where": "1"}), ["MO305"]),
    (ConvertField("users", "a", "integer"), ["MO314"]),
    (ConvertField("users", "a", "int", on_error="skip", on_null="skip"), ["MO314", "MO314"]),
    (ConvertField("users", "a", "bool"), ["MO315"]),
    (Backfill("users", {}), ["MO302"]),
    (Backfill("users", []), ["MO302"]),
    (Backfill("users", {"$set": {}}), ["MO302"]),
    (Backfill("users", {"name": "x"}), ["MO308"]),
    (Backfill("users", [{"$group": {"_id": 1}}]), ["MO308"]),
    (Backfill("users", {"$set": {"_id": 1}}), ["MO304"]),
    (Backfill("users", [{"$project": {"_id": 0}}]), ["MO304"]),
    (Backfill("users", {"$inc": {"n": 1}}), ["MO301"]),
    (Backfill("users", {"$set": {"n": 1}}), []),
    (Backfill("users", {"$set": {"n": 1}}, revert="images"), ["MO314"]),
    (Backfill("users", {"$set": {"n": 1}}, revert={}), ["MO302"]),
    (Backfill("users", {"$set": {"n": 1}}, where={"$where": "1"}), ["MO305"]),
    (CopyDocuments("a", "a"), ["MO309"]),
    (CopyDocuments("a", "b", pipeline=[{"$unwind": "$x"}]), ["MO308"]),
    (CopyDocuments("a", "b", pipeline=[{"$set": {"_id": 1}}]), ["MO304"]),
    (MoveDocuments("a", "a"), ["MO309"]),
    (InsertDocuments("a", []), ["MO302"]),
    (InsertDocuments("a", [{"_id": i} for i in range(1001)]), ["MO312"]),
    (InsertDocuments("a", [{"_id": 1}, {"x": 1}]), ["MO310"]),
    (InsertDocuments("a", [{"_id": 1}], key=()), ["MO310"]),
    (InsertDocuments("a", [{"_id": 1}, {"_id": 1, "x": 2}]), ["MO311"]),
]


@pytest.mark.parametrize(("operation", "codes"), FAULTS)
def test_the_linter_finds_what_no_database_is_needed_for(operation, codes):
    assert [fault.code for fault in operation.lint()] == codes


@pytest.mark.parametrize(
    ("update", "touched"),
    [
        ({"$set": {"a.b": 1, "c": 1}, "$unset": {"d": ""}}, ("a", "c", "d")),
        ({"$rename": {"a.b": "c.d"}}, ("a", "c")),
        ({"$push": {"list.$[].x": 1}}, ("list",)),
        ({"$unknown": {"a": 1}}, None),
        (
            [{"$set": {"a.b": 1}}, {"$addFields": {"c": 1}}, {"$unset": ["d", "e.f"]}, {"$unset": "g"}],
            ("a", "c", "d", "e", "g"),
        ),
        ([{"$project": {"a.b": 0, "c": False}}], ("a", "c")),
        ([{"$project": {"a": 1}}], None),
        ([{"$project": {"a": {"b": 0}}}], None),
        ([{"$set": {"a": 1}}, {"$replaceWith": "$b"}], None),
        ([{"$replaceRoot": {"newRoot": "$b"}}], None),
    ],
)
def test_the_fields_that_an_update_touches(update, touched):
    assert fields.touched_fields(update) == touched


def test_both_joins_filters_and_leaves_empty_ones_out():
    assert fields.both({}, {}) == {}
    assert fields.both({"a": 1}, {}) == {"a": 1}
    assert fields.both({"a": 1}, {"a": 2}) == {"$and": [{"a": 1}, {"a": 2}]}


def test_only_declared_ways_back_count():
    assert Backfill("users", {"$set": {"a": 1}}).why_irreversible() == (
        "the Backfill of users declares no way back; give it revert='snapshot' or an update"
    )
    assert (
        Backfill("users", {"$set": {"a": 1}}, irreversible="it is a correction").why_irreversible()
        == "it is a correction"
    )
    assert Backfill("users", {"$set": {"a": 1}}, revert="snapshot").why_irreversible() is None
    assert RunPython(forward).why_irreversible() == "RunPython forward() declares no reverse"
    assert RunPython(forward, reverse=other).why_irreversible() is None
    with pytest.raises(OperationError, match="declares no reverse"):
        RunPython(forward).reverse(None)


def test_what_the_reverse_would_destroy_is_named():
    assert [(loss.collection, loss.fields) for loss in AddField("users", "a.b").destroys()] == [("users", ("a.b",))]
    assert [loss.fields for loss in Backfill("users", {"$set": {"a.b": 1}}, revert="snapshot").destroys()] == [("a",)]
    assert [loss.fields for loss in Backfill("users", {"$set": {"a": 1}}, revert={"$unset": {"c": ""}}).destroys()] == [
        ("c",)
    ]
    assert Backfill("users", {"$set": {"a": 1}}).destroys() == ()
    assert [loss.collection for loss in CopyDocuments("a", "b").destroys()] == ["b"]
    assert InsertDocuments("a", [{"_id": 1, "x": 2}]).destroys()[0].where == {"$or": [{"_id": 1}]}
    assert MoveDocuments("a", "b").destroys() == ()
    assert RemoveField("users", "a").forward_destroys() == ()  # its before-images hold the values


def test_lineage_names_what_is_read_and_written():
    copy, move = CopyDocuments("a", "b"), MoveDocuments("a", "b")
    assert (copy.reads(), copy.writes()) == (("a",), ("b",))
    assert (move.reads(), move.writes()) == ((), ("a", "b"))
    assert RunPython(forward, collections=["x", "y"]).writes() == ("x", "y")


def test_a_function_is_batched_or_one_transaction():
    assert RunPython(forward).mode is Mode.TRANSACTION
    assert RunPython(forward, batched=True).mode is Mode.BATCHES


def test_the_digest_changes_with_what_is_done_and_only_with_that():
    assert Backfill("a", {"$set": {"x": 1}}).digest() == Backfill("a", {"$set": {"x": 1}}).digest()
    others = [
        Backfill("b", {"$set": {"x": 1}}),
        Backfill("a", {"$set": {"x": 2}}),
        Backfill("a", {"$set": {"x": 1}}, where={"y": 1}),
        Backfill("a", {"$set": {"x": 1}}, revert="snapshot"),
        RunPython(forward),
        RunPython(other),
        RunPython(forward, reverse=other),
        RunPython(forward, batched=True),
        InsertDocuments("a", [{"_id": 1}]),
        InsertDocuments("a", [{"_id": 1.0}]),
    ]
    assert len({operation.digest() for operation in [Backfill("a", {"$set": {"x": 1}}), *others]}) == len(others) + 1


def test_counts_of_what_a_function_returns():
    class Updated:
        matched_count, modified_count = 3, 2

    class Inserted:
        inserted_ids = (1, 2)

    class InsertedOne:
        inserted_id = None

    assert counts_of(None) == Counts()
    assert counts_of(Counts(deleted=1)) == Counts(deleted=1)
    assert counts_of(Updated()) == Counts(matched=3, modified=2)
    assert counts_of(Inserted()) == Counts(inserted=2)
    assert counts_of(InsertedOne()) == Counts(inserted=1)


def test_declaring_operations_imports_no_driver():
    names = "add_field backfill convert_field copy_documents insert_documents move_documents remove_field rename_field run_python"
    imports = "; ".join(f"import mongo_ops.migrations.operations.{name}" for name in names.split())
    look = "import sys; print(sorted({name.partition('.')[0] for name in sys.modules} & {'pymongo', 'airflow'}))"

    told = subprocess.run([sys.executable, "-c", f"{imports}; {look}"], capture_output=True, text=True, check=True)

    assert told.stdout.strip() == "[]"
