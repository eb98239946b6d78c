"""`mongo-ops erase` and `mongo-ops consent` on a real server: from a request on standard input to a certificate."""

from __future__ import annotations

import io
import json
import shutil
from datetime import UTC, datetime, timedelta

import pymongo
import pytest
from bson import ObjectId
from tests.mongo.test_cli import ROOT, connection
from tests.people import key_values

from mongo_ops.audit import log
from mongo_ops.cli import main
from mongo_ops.mongo.lease import Holder, acquire

NOW = datetime(2026, 3, 1, tzinfo=UTC)
ENVIRONMENTS = """
environments:
  development: {{connection: mongo_development, storage: "{storage}"}}
  production: {{connection: mongo_development, protected: true, storage: "{storage}"}}
"""


KEPT = ("ops_migrations", "ops_history", "ops_checkpoints")


@pytest.fixture(scope="module")
def include(tmp_path_factory):
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(
        ROOT / "include", folder / "include", ignore=shutil.ignore_patterns("__pycache__", "environments.yaml")
    )
    (folder / "include" / "environments.yaml").write_text(ENVIRONMENTS.format(storage=folder / "storage"))
    return folder / "include"


@pytest.fixture(scope="module")
def migrated(replica_set, include):
    """The reference model's database, keys and connection, for all of these tests."""
    name = f"test_{ObjectId()}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MONGO_OPS_INCLUDE", str(include))
        patch.setenv("AIRFLOW_CONN_MONGO_DEVELOPMENT", connection(replica_set, name))
        for variable, value in key_values().items():
            patch.setenv(f"AIRFLOW_VAR_{variable.upper()}", value)
        assert main(["migrate", "--env", "development", "--json"]) == 0
        client = pymongo.MongoClient(replica_set.uri)
        yield client[name]
        client.drop_database(name)
        client.close()


@pytest.fixture
def project(migrated, include):
    """The migrated database without a document, and empty storage."""
    for name in migrated.list_collection_names():
        if name.startswith(("ops_erasure", "ops_audit", "ops_legal", "audit_log")):
            migrated[name].drop()
        elif name not in KEPT:
            migrated[name].delete_many({})
    shutil.rmtree(include.parent / "storage", ignore_errors=True)
    log._prepared.clear()
    return migrated


@pytest.fixture
def ann(project):
    return person(project, "ann@example.org")


def person(db, email):
    """Add somebody with three plays; return their id."""
    account = {
        "email": email,
        "display_name": "Ann Lee",
        "status": "active",
        "subscription_type": "free",
        "created_at": NOW,
    }
    key = db.users.insert_one(account).inserted_id
    db.analytics.insert_many(
        [{"event_type": "play", "user_id": key, "track_id": ObjectId(), "ts": NOW} for _ in range(3)]
    )
    return key


@pytest.fixture
def run(capsys, monkeypatch):
    def call(words, *more, env="development", typed=""):
        """Run a command with --json; return its exit code, its value, and all it said."""
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        code = main([*words.split(), *more, "--env", env, "--json"])
        said = capsys.readouterr()
        return code, json.loads(said.out.splitlines()[-1]), said.out + said.err

    return call


def receive(run, key, *more):
    code, value, said = run("erase request", *more, typed=f"{key}\n")
    assert (code, str(key) in said) == (0, False)
    return value["requests"][0]


def test_a_request_is_carried_out_and_certified(project, run, ann, tmp_path):
    other = person(project, "joann@example.org")
    request = receive(run, ann, "--source", "letter")

    code, plan, _ = run("erase plan", request)
    assert (code, plan["requests"], project.users.count_documents({})) == (2, 1, 2)
    assert {one["rule"]: one["documents"] for one in plan["counts"] if one["documents"]} == {
        "analytics.events": 3,
        "users.account": 1,
    }

    code, value, said = run("erase run", request)
    assert (code, value["states"], str(ann) in said) == (0, {"completed": 1}, False)
    assert (project.users.distinct("_id"), project.analytics.distinct("user_id")) == ([other], [other])

    code, certificate, _ = run("erase certificate", request)
    assert (code, certificate["outcome"], [rule["documents"] for rule in certificate["rules"]]) == (
        0,
        "completed",
        [3, 1],
    )
    page = tmp_path / "certificate.html"
    assert run("erase certificate", request, "--html", str(page))[0] == 0
    assert certificate["digest"] in page.read_text()
    assert run("audit verify", "--log", "ops_erasure_ledger")[0] == 0


def test_the_same_person_again_is_the_same_request(run, ann):
    first = receive(run, ann)

    _, value, _ = run("erase request", typed=f"{ann}\n")

    assert (value["requests"], value["again"]) == ([first], [True])


@pytest.mark.parametrize("typed", ["", "\n", "null", '{"$ne": null}', "ann@example.org", "anonymous"])
def test_what_cannot_name_a_person_is_refused_with_nothing_written(project, run, typed):
    code, value, said = run("erase request", typed=typed)

    assert (code, value["exit_code"]) == (3, 3)
    assert not typed.strip() or typed not in said
    assert project.list_collection_names(filter={"name": {"$regex": "^ops_erasure"}}) == []


def test_somebody_who_is_not_there_is_not_found_and_never_complete(project, run):
    request = receive(run, ObjectId())

    code, value, _ = run("erase run", request)

    assert (code, "matches nobody" in value["error"]) == (3, True)
    assert project.ops_erasure_requests.find_one({"_id": request})["state"] == "not_found"
    assert run("erase certificate", request)[0] == 3


def test_many_at_once_become_a_batch_and_a_bad_line_is_named(project, run, ann):
    people = [ann, person(project, "bo@example.org"), person(project, "cy@example.org")]
    code, value, _ = run("erase request --many", typed=f"{people[0]}\nnobody\n")
    assert (code, value["error"].startswith("Line 2: ")) == (3, True)

    _, value, _ = run("erase request --many", typed="".join(f"{one}\n" for one in people))

    code, done, _ = run("erase run", value["batch"])
    assert (code, done["states"], project.users.count_documents({})) == (0, {"completed": 3}, 0)


def test_a_protected_environment_takes_the_digest_that_somebody_else_has_read(project, run, ann):
    _, value, _ = run("erase request", env="production", typed=f"{ann}\n")
    request = value["requests"][0]
    code, refusal, _ = run("erase run", request, env="production")
    assert (code, project.users.count_documents({"_id": ann})) == (3, 1)
    digest = run("erase plan", request, env="production")[1]["digest"]
    assert digest in refusal["error"]

    code, done, _ = run("erase run", request, "--approved", digest, env="production")

    assert (code, done["states"]) == (0, {"completed": 1})


def test_a_hold_keeps_a_person_and_its_release_lets_the_request_go_on(project, run, ann):
    request = receive(run, ann)
    review = (datetime.now(UTC) + timedelta(days=90)).date().isoformat()
    words = ("--reason-code", "litigation", "--authority", "court, file 12", "--review", review)
    _, placed, _ = run("erase hold", "--request", request, *words)
    assert [one["hold"] for one in run("erase holds")[1]["holds"]] == [placed["hold"]]

    code, value, _ = run("erase run", request)
    assert (code, "held" in value["error"], project.users.count_documents({"_id": ann})) == (3, True, 1)

    assert run("erase release", placed["hold"], "--reason", "the case is closed")[0] == 0
    assert run("erase run", request)[1]["states"] == {"completed": 1}


def test_deadlines_are_listed_extended_and_overdue_ones_exit_with_2(run, ann, project):
    request = receive(run, ann, "--received", "2026-01-31")

    code, value, _ = run("erase list --open")
    assert (code, value["requests"][0]["due"], value["requests"][0]["alert"]) == (2, "2026-02-28", "overdue")

    words = ("--reason", "many systems", "--notified", "2026-02-10")
    code, value, _ = run("erase extend", request, *words)
    assert (code, value["due_at"][:10]) == (0, "2026-04-30")
    assert run("erase extend", request, *words)[0] == 3


def test_coverage_names_a_field_that_the_map_does_not(project, run, ann):
    assert run("erase coverage")[:2] == (0, {"gaps": []})

    project.users.update_one({"_id": ann}, {"$set": {"nickname": "Annie"}})

    code, value, _ = run("erase coverage")
    assert (code, [gap["where"] for gap in value["gaps"]]) == (2, ["users.nickname"])


def test_keys_are_new_each_time_and_rotation_puts_a_new_one_in_front(capsys, monkeypatch):
    assert main(["erase", "keys"]) == 0
    first = dict(line.split("=", 1) for line in capsys.readouterr().out.splitlines())
    for name, value in first.items():
        monkeypatch.setenv(name, value.strip("'"))

    assert main(["erase", "keys", "--rotate", "subject"]) == 0

    line = capsys.readouterr().out.strip()
    name, value = line.split("=", 1)
    assert (len(first), name) == (4, "AIRFLOW_VAR_MONGO_OPS_KEY_SUBJECT")
    assert value.strip("'").endswith(f",{first[name].strip(chr(39))}")
    assert value.strip("'").startswith("2:")


def test_consent_is_granted_proved_and_withdrawn(run, ann):
    words = ("marketing", "--policy-version", "2026-01", "--source", "web")
    assert run("consent prove marketing", typed=f"{ann}\n")[0] == 2

    assert run("consent grant", *words, typed=f"{ann}\n")[0] == 0
    code, value, _ = run("consent prove marketing", typed=f"{ann}\n")
    assert (code, value["valid"]) == (0, True)

    assert run("consent withdraw", *words, typed=f"{ann}\n")[0] == 0
    assert run("consent prove marketing", typed=f"{ann}\n")[0] == 2
    assert [len(one["event"]) for one in run("consent report", typed=f"{ann}\n")[1]["consents"]] == [2]


def test_a_person_gets_all_that_is_theirs_as_json_and_a_file_is_never_written_over(run, ann, tmp_path):
    file = tmp_path / "ann.json"

    code, value, said = run("erase export-subject", "--output", str(file), typed=f"{ann}\n")

    assert (code, value["documents"], "ann@example.org" in said) == (
        0,
        {"analytics.events": 3, "users.account": 1},
        False,
    )
    assert (file.stat().st_mode & 0o777, "ann@example.org" in file.read_text()) == (0o600, True)
    assert run("erase export-subject", "--output", str(file), typed=f"{ann}\n")[0] == 3
    assert run("erase export-subject", "--output", str(tmp_path / "nobody"), typed=f"{ObjectId()}\n")[0] == 3
    assert not (tmp_path / "nobody").exists()


def test_who_comes_back_by_a_restore_is_erased_again_under_the_same_request(project, run, ann):
    request = receive(run, ann)
    backup = project.users.find_one({"_id": ann})
    assert run("erase run", request)[0] == 0
    assert run("erase replay --dry-run")[0] == 0
    project.users.insert_one(backup)

    assert run("erase replay --dry-run")[0] == 2
    code, value, _ = run("erase replay")

    assert (code, value["states"], project.users.count_documents({"_id": ann})) == (0, {"completed": 1}, 0)
    assert len(project.ops_erasure_certificates.find_one({"_id": request})["certificates"]) == 2


def test_recipients_are_told_once(project, run, ann):
    assert run("erase run", receive(run, ann))[0] == 0
    code, value, _ = run("erase notices")
    assert (code, sorted(one["recipient"] for one in value["notices"])) == (2, ["mail_provider", "payment_provider"])

    for one in value["notices"]:
        assert run("erase notices", "--told", one["id"])[0] == 0

    assert run("erase notices")[:2] == (0, {"notices": []})
    assert run("erase notices", "--told", value["notices"][0]["id"])[0] == 3


def test_what_is_older_than_its_period_goes_and_the_rest_stays(project, run, ann):
    old = datetime(2020, 1, 1, tzinfo=UTC)
    kept = [{"event_type": "play", "user_id": ann, "track_id": ObjectId(), "ts": datetime.now(UTC)} for _ in range(3)]
    project.analytics.insert_many(kept)
    project.analytics.update_one({"_id": kept[0]["_id"]}, {"$set": {"ts": old}})
    project.analytics.delete_many({"ts": NOW})

    code, plan, _ = run("retention --dry-run")
    assert (code, {one["id"]: one["documents"] for one in plan["due"] if one["documents"]}) == (
        2,
        {"analytics.events": 1},
    )
    code, done, _ = run("retention")

    assert (code, done["retained"]) == (0, {"analytics.events": 1})
    assert sorted(project.analytics.distinct("_id")) == sorted(one["_id"] for one in kept[1:])
    assert run("retention --dry-run")[0] == 0


def test_a_run_that_was_killed_goes_on_with_the_same_command_and_not_beside_a_living_one(project, run, ann):
    request = receive(run, ann)
    project.ops_erasure_requests.update_one({"_id": request}, {"$set": {"state": "executing", "run_id": "cli gone"}})
    living = acquire(project, "erasure", Holder("cli other"), ttl=60)
    assert run("erase run", request)[0] == 3
    living.release()

    code, value, _ = run("erase run", request)

    assert (code, value["states"], project.users.count_documents({"_id": ann})) == (0, {"completed": 1}, 0)
