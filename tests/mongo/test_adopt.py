"""Taking over from other migration tools: documents exactly as the real tools wrote them, matched with our files."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime

import pytest

from mongo_ops.migrations import adopt, engine, history
from mongo_ops.migrations.adopt import AdoptionChangedError, NothingToAdoptError, UnmatchedError
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.migrations.losses import Losses
from mongo_ops.migrations.peers import PEERS, slug
from mongo_ops.migrations.resolve import NotResolvableError, ReasonMissingError
from mongo_ops.mongo.lease import Holder
from mongo_ops.storage import open_folder

OURS = ("001_create_users", "002_add_status", "003_index_tracks", "004_later")
WHY = "moving over from the old tool"
AT = datetime(2026, 1, 31, 12, tzinfo=UTC)
LATER = datetime(2026, 2, 1, 12, tzinfo=UTC)

# Written by migrate-mongo 14.0.7 (useFileHash: true adds fileHash); an edited file that ran again has two documents.
CHANGELOG = [
    {"fileName": "20240131120000-create-users.js", "appliedAt": AT, "migrationBlock": 1795365833153.0},
    {
        "fileName": "20240201120000-Add-Status.js",
        "fileHash": "f2dd58aa",
        "appliedAt": AT,
        "migrationBlock": 1795365835593.0,
    },
    {
        "fileName": "20240201120000-Add-Status.js",
        "fileHash": "08c1aa00",
        "appliedAt": LATER,
        "migrationBlock": 1795365899999.0,
    },
]
# Written by pymongo-migrate 1.0.0: two upgrades, then a downgrade of the second.
PYMONGO_MIGRATE = [
    {"name": "20240131120000_create_users", "applied": AT},
    {"name": "20240201120000_add_status", "applied": None},
]
# Written by mongodb-migrations 1.3.1: no names, and created_at in the local time of the machine that ran it.
DATABASE_MIGRATIONS = [
    {"migration_datetime": "20240131120000", "created_at": AT},
    {"migration_datetime": "20240201120000", "created_at": LATER},
]


def mongomig(revision, down, description, status="applied", **more):
    """A document as written by mongomig 0.4.2."""
    meta = {"environment": None, "hostname": "build", "user": None, "git_commit": None}
    return {
        "_id": revision, "revision": revision, "down_revision": down, "description": description, "status": status,
        "checksum": "sha256:138ac62b", "applied_at": AT, "execution_time_ms": 0, "mongomig_version": "0.4.2", "meta": meta,
    } | more  # fmt: skip


MONGOMIG = [
    mongomig("58a0196a0673", None, "Create users"),
    mongomig("193538b280bd", "58a0196a0673", "add-status"),
    mongomig(
        "3d2eea59f1ab",
        "193538b280bd",
        "Index tracks",
        "failed",
        execution_time_ms=None,
        error="upgrade: ValueError: boom",
    ),
]


@pytest.fixture
def include(tmp_path):
    (tmp_path / "migrations").mkdir()
    for name in OURS:
        text = f'"""{name}."""\nfrom mongo_ops.migrations import AddField, Migration\n\nmigration = Migration([AddField("t", "{name}", value=1)])\n'
        (tmp_path / "migrations" / f"{name}.py").write_text(text)
    return tmp_path


@pytest.fixture
def files(target, include):
    return engine.survey(target, include).files


@contextmanager
def running(target, tmp_path):
    losses = Losses(open_folder((tmp_path / "losses").as_uri()))
    with engine.open_run(target, Occasion(Actor("ada", "os"), "run 1"), losses, holder=Holder("ada")) as run:
        yield run


def take_over(target, include, files, seen, **options):
    with running(target, include) as run:
        return [done.name for done in adopt.adopt(run, files, seen, WHY, **options)]


def applied(db):
    return {record.name: record.baseline for record in history.load_all(db) if record.state == "applied"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("20240131120000-create-users.js", "create_users"),
        ("20240131120000_Create_Users.PY", "create_users"),
        ("Create users", "create_users"),
        ("007_create_users", "create_users"),
        ("migrations/20240131_1200_create-users.ts", "create_users"),
        ("001_2fa_tokens", "2fa_tokens"),
        ("20240131120000", "20240131120000"),
        ("005", "005"),
    ],
)
def test_names_have_a_slug_in_common(name, expected):
    assert slug(name) == expected


@pytest.mark.parametrize(
    ("peer", "documents", "expected"),
    [
        ("migrate-mongo", CHANGELOG, {OURS[0]: AT, OURS[1]: LATER}),
        ("pymongo-migrate", PYMONGO_MIGRATE, {OURS[0]: AT}),
        ("mongomig", MONGOMIG, {OURS[0]: AT, OURS[1]: AT}),
    ],
)
def test_a_history_becomes_a_baseline_that_keeps_their_dates(target, include, peer, documents, expected):
    db, files = target.db, engine.survey(target, include).files
    theirs = db[PEERS[peer].collection]
    theirs.insert_many([dict(one) for one in documents])
    before = list(theirs.find())

    assert take_over(target, include, files, adopt.preview(db, files)) == list(expected)

    assert applied(db) == dict.fromkeys(expected, True)
    told = list(db.ops_history.find({"event": "baselined"}))
    assert {event["migration"]: event["their_applied_at"] for event in told} == expected
    assert {event["adopted_from"] for event in told} == {peer}
    assert {entry["details"]["reason"] for entry in db.audit_log.find({"action": "migration.baselined"})} == {WHY}
    assert list(theirs.find()) == before
    assert engine.plan_forward(target, engine.survey(target, include)).names == OURS[len(expected) :]


def test_what_the_tool_does_not_count_as_applied_is_shown_and_not_adopted(db, files):
    db["__mongomig_migrations"].insert_many(MONGOMIG)
    db.pymongo_migrate.insert_many(PYMONGO_MIGRATE)

    failed = adopt.preview(db, files, "mongomig")
    rolled_back = adopt.preview(db, files, "pymongo-migrate")

    assert [(entry.title, entry.state) for entry in failed.unapplied] == [("Index tracks", "failed")]
    assert failed.ours == ("003_index_tracks", "004_later")
    assert [(entry.name, entry.state) for entry in rolled_back.unapplied] == [
        ("20240201120000_add_status", "rolled back")
    ]
    assert "failed there, not adopted: 3d2eea59f1ab Index tracks" in failed.as_text()


def test_mongodb_migrations_needs_the_folder_for_the_names(target, db, include, files, tmp_path):
    db.database_migrations.insert_many(DATABASE_MIGRATIONS)
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("20240131120000_create_users.py", "20240201120000_add_status.py", "base.py"):
        (folder / name).write_text("")

    without, seen = adopt.preview(db, files), adopt.preview(db, files, folder=folder)

    assert (without.matched, [entry.name for entry in without.theirs]) == ((), ["20240131120000", "20240201120000"])
    assert seen.theirs == ()
    assert take_over(target, include, files, seen) == list(OURS[:2])


def test_entries_without_a_file_here_are_refused_unless_ignored_and_then_recorded_as_ignored(
    target, db, include, files
):
    db.changelog.insert_many(
        [*CHANGELOG[:1], {"fileName": "2024-forgotten.js", "appliedAt": AT, "migrationBlock": 1.0}]
    )
    seen = adopt.preview(db, files)
    with pytest.raises(UnmatchedError, match="forgotten"):
        take_over(target, include, files, seen)
    assert applied(db) == {}

    assert take_over(target, include, files, seen, ignore_unmatched=True) == ["001_create_users"]
    assert db.ops_history.find_one({"event": "baselined"})["ignored"] == ["2024-forgotten.js"]


def test_names_that_differ_are_paired_by_hand_and_a_gap_is_told(target, db, include, files):
    db.changelog.insert_many([{"fileName": "9-tracks.js", "appliedAt": AT, "migrationBlock": 1.0}])
    seen = adopt.preview(db, files, pairs={"9-tracks.js": "003_index_tracks"})

    assert [(entry.name, name) for entry, name in seen.matched] == [("9-tracks.js", "003_index_tracks")]
    assert seen.late == ("001_create_users", "002_add_status")
    assert seen.as_json()["out_of_order"] == ["001_create_users", "002_add_status"]
    assert take_over(target, include, files, seen) == ["003_index_tracks"]


def test_two_of_theirs_with_one_slug_match_nothing(db, files):
    db["__mongomig_migrations"].insert_many([mongomig("a1", None, "Add status"), mongomig("b2", "a1", "add status")])
    seen = adopt.preview(db, files)
    assert (seen.matched, [entry.name for entry in seen.theirs]) == ((), ["a1", "b2"])


def test_a_changelog_of_the_application_is_no_history(db, files):
    db.changelog.insert_one({"version": "1.2", "notes": "new colours"})
    assert adopt.detect(db) == ()
    with pytest.raises(NothingToAdoptError, match="None of migrate-mongo"):
        adopt.preview(db, files)
    with pytest.raises(NothingToAdoptError, match="unknown"):
        adopt.preview(db, files, "flyway")


def test_two_histories_ask_for_a_choice_and_a_moved_one_is_named(db, files):
    db.changelog.insert_many([dict(one) for one in CHANGELOG])
    db.pymongo_migrate.insert_many(PYMONGO_MIGRATE)
    db["old_changelog"].insert_many([dict(one) for one in CHANGELOG[:1]])
    with pytest.raises(NothingToAdoptError, match="migrate-mongo, pymongo-migrate; choose one"):
        adopt.preview(db, files)
    assert len(adopt.preview(db, files, "migrate-mongo", collection="old_changelog").matched) == 1


def test_adopting_twice_records_nothing_new(target, db, include, files):
    db.changelog.insert_many([dict(one) for one in CHANGELOG])
    take_over(target, include, files, adopt.preview(db, files))

    again = adopt.preview(db, files)
    assert (again.matched, again.already) == ((), OURS[:2])
    assert take_over(target, include, files, again) == []
    assert db.ops_history.count_documents({}) == 2


def test_a_preview_that_is_out_of_date_a_lock_or_a_half_done_migration_stops_it(target, db, include, files):
    db.changelog.insert_many([dict(one) for one in CHANGELOG[:1]])
    seen = adopt.preview(db, files)
    db.changelog.insert_one(dict(CHANGELOG[1]))
    with pytest.raises(AdoptionChangedError):
        take_over(target, include, files, seen)
    seen = adopt.preview(db, files)
    db.changelog_lock.insert_one({"createdAt": AT})
    with pytest.raises(NothingToAdoptError, match="lock"):
        take_over(target, include, files, seen)
    db.changelog_lock.delete_many({})
    db.ops_migrations.insert_one({"_id": OURS[3], "state": "failed", "checksum": "x"})
    with pytest.raises(NotResolvableError):
        take_over(target, include, files, seen)
    with pytest.raises(ReasonMissingError), running(target, include) as run:
        adopt.adopt(run, files, seen, " ")
    assert applied(db) == {}
