"""Catalogue operations without a database: what the linter says, what the plan calls them, which definitions are equal."""

from __future__ import annotations

import subprocess
import sys

import pytest
from bson import Int64

from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.base import Loss, Mode
from mongo_ops.migrations.operations.create_collection import CreateCollection
from mongo_ops.migrations.operations.create_index import CreateIndex
from mongo_ops.migrations.operations.drop_collection import DropCollection
from mongo_ops.migrations.operations.drop_index import DropIndex
from mongo_ops.migrations.operations.rename_collection import RenameCollection
from mongo_ops.migrations.operations.run_command import RunCommand
from mongo_ops.migrations.operations.set_validator import SetValidator

SERIES = {"timeField": "at"}
REVERSE = {"ping": 1}


def index(*keys, **options) -> CreateIndex:
    return CreateIndex("tracks", keys, **options)


def command(body, **options) -> RunCommand:
    return RunCommand(body, reverse_command=REVERSE, **options)


CLEAN = [
    CreateCollection("tracks"),
    CreateCollection("tracks", {"a": 1}, level="moderate", action="warn", collation={"locale": "de"}, adopt=True),
    CreateCollection("tracks", capped={"size": 4096}),
    CreateCollection("tracks", timeseries=SERIES, expire_after_seconds=1),
    CreateCollection("tracks", clustered=True, expire_after_seconds=1),
    DropCollection("tracks"),
    SetValidator("tracks", {"a": 1}),
    SetValidator("tracks", None),
    SetValidator("tracks", {"a": 1}, level="moderate", max_rejected=9),
    index(("a", 1), ("b", -1), unique=True),
    index(("a", 1), unique=True, sparse=True),
    index(("a", 1), ("b", 1), unique=True, partial={"a": {"$exists": True}}),
    index(("a", 1), ttl_seconds=0),
    index(("a", "text"), default_language="none", language_override="lang", weights={"a": 2}),
    index(("$**", 1), wildcard_projection={"a": 1}),
    index(("a", "2dsphere"), ("b", "hashed")),
    DropIndex("tracks", "a_1"),
    RenameCollection("tracks", "songs"),
    command({"delete": "tracks", "deletes": [{"q": {"a": 1}, "limit": 0}]}),
    command({"aggregate": "tracks", "pipeline": [{"$merge": "songs"}], "cursor": {}}),
    command({"ping": 1}),
]
FAULTY = [
    (CreateCollection(""), ["MO203"]),
    (CreateCollection("ops_leases"), ["MO203"]),
    (DropCollection("system.users"), ["MO203"]),
    (SetValidator("a$b", None), ["MO203"]),
    (DropIndex("a..b", "a_1"), ["MO203"]),
    (CreateIndex(".a", [("a", 1)]), ["MO203"]),
    (RenameCollection("ops_a", "a."), ["MO203", "MO203"]),
    (command({"compact": "ops_history"}), ["MO203"]),
    (RenameCollection("tracks", "tracks"), ["MO207"]),
    (CreateCollection("tracks", level="loose"), ["MO207"]),
    (SetValidator("tracks", {}, action="shout"), ["MO207"]),
    (CreateCollection("t", {"a": 1}, timeseries=SERIES), ["MO207"]),
    (CreateCollection("t", timeseries={}, clustered=True, pre_and_post_images=True), ["MO207"] * 3),
    (CreateCollection("t", capped={"max": 1}), ["MO207"]),
    (CreateCollection("t", capped={"size": 1}, clustered=True), ["MO207"]),
    (CreateCollection("t", expire_after_seconds=1), ["MO207"]),
    (SetValidator("tracks", {"a": 1}, max_rejected=1), ["MO210"]),
    (index(("a", 1), ("b", 1), unique=True, sparse=True), ["MO202"]),
    (index(("a", 1), ("b", 1), ttl_seconds=1), ["MO204"]),
    (index(("_id", 1), ttl_seconds=1), ["MO204"]),
    (index(("a", 1), ttl_seconds=-1), ["MO207"]),
    (index(("a", 1), ttl_seconds=2**31), ["MO207"]),
    (index(("a", 0)), ["MO205"]),
    (index(("a", True)), ["MO205"]),
    (index(("a", "ascending")), ["MO205"]),
    (index(("a", 1), ("a", -1)), ["MO205"]),
    (index(), ["MO205"]),
    (index(("a", "text")), ["MO206"]),
    (index(("a", 1), sparse=True, partial={}), ["MO207"]),
    (index(("a", "text"), default_language="none", unique=True), ["MO207"]),
    (index(("$**", 1), unique=True), ["MO207"]),
    (index(("a", 1), weights={"a": 1}), ["MO207"]),
    (index(("a", 1), wildcard_projection={"a": 1}), ["MO207"]),
    (DropIndex("tracks", "_id_"), ["MO207"]),
    (DropIndex("tracks", "*"), ["MO207"]),
    (RunCommand({}), ["MO207"]),
    (command({"dropDatabase": 1}), ["MO201"]),
    (command({"drop": "tracks"}), ["MO201", "MO208"]),
    (command({"convertToCapped": "tracks", "size": 1}), ["MO201"]),
    (command({"delete": "tracks", "deletes": [{"q": {}, "limit": 0}]}), ["MO201"]),
    (command({"findAndModify": "tracks", "remove": True}), ["MO201"]),
    (command({"aggregate": "tracks", "pipeline": [{"$out": "songs"}], "cursor": {}}), ["MO201"]),
    (RunCommand({"ping": 1}, reverse_command={"dropDatabase": 1}), ["MO201"]),
    (command({"createIndexes": "tracks", "indexes": []}), ["MO208"]),
    (command({"update": "tracks", "updates": [{"q": {}, "u": {"$inc": {"n": 1}}}]}), ["MO208", "MO209"]),
    (command({"insert": "tracks", "documents": [{}]}), ["MO209"]),
]


@pytest.mark.parametrize("operation", CLEAN, ids=lambda op: op.describe())
def test_sound_operations_have_no_faults(operation):
    assert list(operation.lint()) == []


@pytest.mark.parametrize(
    ("operation", "codes"), FAULTY, ids=lambda value: "" if isinstance(value, list) else repr(value)
)
def test_doubtful_operations_are_named_by_code(operation, codes):
    assert [fault.code for fault in operation.lint()] == codes


@pytest.mark.parametrize(
    ("operation", "line"),
    [
        (CreateCollection("tracks"), "Create the collection tracks"),
        (
            CreateCollection(
                "tracks", {"a": 1}, capped={"size": 4096}, clustered=True, collation={"locale": "de"}, adopt=True
            ),
            "Create or adopt the collection tracks: validator (strict, error), capped at 4,096 bytes, clustered by _id, collation de",
        ),
        (
            CreateCollection("plays", timeseries=SERIES, expire_after_seconds=86400, pre_and_post_images=True),
            "Create the collection plays: time series on at, expiry after 86,400 s, pre- and post-images",
        ),
        (DropCollection("tracks"), "Drop the collection tracks with all its documents and indexes"),
        (
            SetValidator("tracks", {"a": 1}, level="moderate"),
            "Set the validator of tracks (level moderate, action error)",
        ),
        (SetValidator("tracks", None), "Remove the validator of tracks"),
        (
            index(("a", 1), ("b", -1), unique=True, hidden=True, partial={"a": 1}, collation={"locale": "de"}),
            "Build the index a_1_b_-1 of tracks on {a: 1, b: -1}: unique, hidden, partial, collation de",
        ),
        (
            index(("a", 1), name="x", ttl_seconds=3600),
            "Build the index x of tracks on {a: 1}: documents expire after 3,600 s",
        ),
        (DropIndex("tracks", "a_1"), "Drop the index a_1 of tracks"),
        (RenameCollection("tracks", "songs"), "Rename the collection tracks to songs"),
        (RunCommand({"delete": "users", "deletes": [{"q": {"mail": "secret"}}]}), "Run the command delete on users"),
        (RunCommand({"ping": 1}), "Run the command ping"),
        (RunCommand({}), "Run the command (none)"),
    ],
)
def test_the_plan_calls_it_by_one_exact_line(operation, line):
    assert operation.describe() == line


@pytest.mark.parametrize("operation", CLEAN, ids=lambda op: op.describe())
def test_all_are_safe_to_repeat_and_have_a_way_back(operation):
    assert operation.mode is Mode.IDEMPOTENT
    assert operation.why_irreversible() is None
    assert operation.digest() == operation.digest()


def test_a_command_without_reverse_says_that_it_has_none():
    assert RunCommand({"fsync": 1}).why_irreversible() == "the command fsync has no reverse_command"
    assert RunCommand({"fsync": 1}, irreversible="it only flushes").why_irreversible() == "it only flushes"


def test_what_is_written_and_what_is_lost_is_named():
    assert [op.writes() for op in (RenameCollection("a", "b"), RunCommand({"drop": "a"}), RunCommand({"ping": 1}))] == [
        ("a", "b"), ("a",), (),
    ]  # fmt: skip
    assert RunCommand({"ping": 1}, collections=("x", "y")).writes() == ("x", "y")
    assert (CreateCollection("a").destroys(), CreateCollection("a").forward_destroys()) == ((Loss("a"),), ())
    assert (DropCollection("a").destroys(), DropCollection("a").forward_destroys()) == ((), (Loss("a"),))


def test_every_field_counts_in_the_digest():
    assert index(("a", 1)).digest() == index(("a", 1)).digest()
    others = [index(("a", -1)), index(("a", 1), unique=True), index(("a", 1), name="a_1"), DropIndex("tracks", "a_1")]
    assert len({op.digest() for op in [index(("a", 1)), *others]}) == 5


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            {"key": {"a": 1}},
            {"v": 2, "key": {"a": 1.0}, "name": "x", "unique": False, "sparse": False, "background": True},
        ),
        ({"key": {"a": 1}, "collation": {"locale": "simple"}}, {"key": {"a": 1}}),
        (
            {"key": {"a": 1}, "collation": {"locale": "de", "version": "57.1"}},
            {"key": {"a": 1}, "collation": {"locale": "de"}},
        ),
        ({"key": {"a": "2d"}}, {"key": {"a": "2d"}, "bits": 26, "min": -180.0, "max": 180}),
        ({"key": {"a": "2dsphere"}}, {"key": {"a": "2dsphere"}, "2dsphereIndexVersion": 3}),
        (
            {"key": {"x": 1, "a": "text", "b": "text", "y": -1}, "weights": {"b": 3, "c": 2}},
            {
                "key": {"x": 1, "_fts": "text", "_ftsx": 1, "y": -1},
                "weights": {"a": 1, "b": 3, "c": 2},
                "default_language": "english",
                "language_override": "language",
                "textIndexVersion": 3,
            },
        ),
        (
            {"key": {"a": 1}, "partialFilterExpression": {"a": 1, "b": 2}},
            {"key": {"a": 1}, "partialFilterExpression": {"b": Int64(2), "a": 1}},
        ),
    ],
)
def test_equal_index_definitions_have_one_normal_form(one, other):
    assert list(catalogue.differences(catalogue.index_form(one), catalogue.index_form(other))) == []


@pytest.mark.parametrize(
    ("one", "other", "paths"),
    [
        ({"key": {"a": 1, "b": 1}}, {"key": {"b": 1, "a": 1}}, ["key"]),
        ({"key": {"a": 1}}, {"key": {"a": -1}}, ["key"]),
        ({"key": {"a": 1}, "expireAfterSeconds": 0}, {"key": {"a": 1}}, ["expireAfterSeconds"]),
        ({"key": {"a": 1}, "unique": True}, {"key": {"a": 1}, "hidden": True}, ["unique", "hidden"]),
        ({"key": {"a": "text"}}, {"key": {"b": "text"}}, ["weights.a", "weights.b"]),
        (
            {"key": {"a": 1}, "partialFilterExpression": {"a": True}},
            {"key": {"a": 1}, "partialFilterExpression": {"a": 1}},
            ["partialFilterExpression.a"],
        ),
    ],
)
def test_other_index_definitions_differ_where_they_differ(one, other, paths):
    found = catalogue.differences(catalogue.index_form(one), catalogue.index_form(other))
    assert [difference.path for difference in found] == paths


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({}, {"validator": {}, "validationLevel": "moderate", "validationAction": "error"}),
        ({"validator": {"a": 1}}, {"validator": {"a": 1.0}, "validationLevel": "strict", "validationAction": "error"}),
        ({"capped": True, "size": 5000}, {"capped": True, "size": 5120}),
        ({"capped": True, "size": 1}, {"capped": True, "size": 4096}),
        ({}, {"changeStreamPreAndPostImages": {"enabled": False}, "collation": {"locale": "simple"}}),
        (
            {"timeseries": {"timeField": "t"}},
            {"timeseries": {"timeField": "t", "granularity": "seconds", "bucketMaxSpanSeconds": 3600}},
        ),
        (
            {"clusteredIndex": {"key": {"_id": 1}, "unique": True}},
            {"clusteredIndex": {"v": 2, "key": {"_id": 1}, "name": "_id_", "unique": True}},
        ),
    ],
)
def test_equal_collection_options_have_one_normal_form(one, other):
    assert list(catalogue.differences(catalogue.options_form(one), catalogue.options_form(other))) == []


def test_a_custom_bucket_span_is_kept_when_no_granularity_implies_it():
    custom = {"timeField": "t", "bucketMaxSpanSeconds": 60, "bucketRoundingSeconds": 60}
    assert catalogue.timeseries_form(custom) == custom


def test_differences_read_as_sentences_and_are_cut_when_there_are_many():
    wanted = {"validator": {"required": ["a"]}, "size": 4096}
    assert catalogue.told(list(catalogue.differences(wanted, {"size": 8192, "validator": {"required": ["b"]}}))) == (
        'validator.required: wanted ["a"], is ["b"]; size: wanted 4096, is 8192'
    )
    many = list(catalogue.differences({f"f{n}": n for n in range(11)}, {}))
    assert catalogue.told(many).endswith("f7: wanted 7, is nothing; and 3 more")
    long = next(catalogue.differences({"a": "x" * 200}, {}))
    assert str(long) == f'a: wanted "{"x" * 76}..., is nothing'


def test_a_noted_definition_is_recalled_with_its_types_and_its_order():
    kept = {"b.c": {"$regex": "x", "$options": "i"}, "a": [Int64(1), 1, 1.0, True, None]}
    back = catalogue.recall(catalogue.note(kept))
    assert list(back) == ["b.c", "a"]
    assert repr(back) == repr(kept)


def test_an_index_without_collation_is_kept_from_inheriting_one():
    spec = {"v": 2, "key": {"a": 1}, "name": "a_1", "ns": "x.y"}
    assert catalogue.rebuild_spec(spec, collated=False) == {"v": 2, "key": {"a": 1}, "name": "a_1"}
    assert catalogue.rebuild_spec(spec, collated=True)["collation"] == {"locale": "simple"}


@pytest.mark.parametrize(
    "name",
    [
        "catalogue",
        "create_collection",
        "create_index",
        "drop_collection",
        "drop_index",
        "rename_collection",
        "run_command",
        "set_validator",
    ],
)
def test_importing_an_operation_imports_neither_pymongo_nor_airflow(name):
    code = f"import sys, mongo_ops.migrations.operations.{name}; print([m for m in ('pymongo', 'airflow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
