"""Verdicts of the health checks as tables: facts in, findings out, no database."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from uuid import UUID

import pytest
from bson import Int64, ObjectId

from mongo_ops.health.checks import CHECKS, GROUPS
from mongo_ops.health.checks.backup_age import Last
from mongo_ops.health.checks.counts import Counted
from mongo_ops.health.checks.coverage_waivers import Waivers
from mongo_ops.health.checks.disk_used import Disk, days_to_full
from mongo_ops.health.checks.lapsed_mutes import Mutes
from mongo_ops.health.checks.redundant_indexes import redundant
from mongo_ops.health.checks.resume_tokens import Tokens, moment
from mongo_ops.health.checks.ttl_monitor import Monitor
from mongo_ops.health.checks.ttl_values import never_expires, without_date
from mongo_ops.health.checks.unknown_languages import is_known
from mongo_ops.health.checks.unused_indexes import Usage, Used
from mongo_ops.health.checks.validation import due
from mongo_ops.health.model import FactMissingError, Limits, Mute, NotApplicableError, Status, shown_ids
from mongo_ops.health.run import UnknownGroupError, chosen
from mongo_ops.health.sight import Point, Waived
from mongo_ops.health.snapshot import IndexFacts, Snapshot
from mongo_ops.orchestration import health as tasks

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OK, WARN, CRIT = Status.OK, Status.WARN, Status.CRIT
BY_ID = {check.id: check for check in CHECKS}


def snapshot(**parts):
    return Snapshot("production", "m", protected=True, taken_at=NOW, **parts)


def found(check, facts, **limits):
    """What a check finds: {scope: status}."""
    one = BY_ID[check]
    return {finding.scope: finding.status for finding in one.verdict(facts, replace(one.limits, **limits))}


def member(name, state=2, behind=0.0, health=1):
    words = {1: "PRIMARY", 2: "SECONDARY", 8: "(not reachable/healthy)"}
    return {
        "name": name,
        "state": state,
        "stateStr": words[state],
        "health": health,
        "optimeDate": NOW - timedelta(seconds=behind),
    }


def replication(*samples):
    return snapshot(replication=[{"set": "rs0", "majority": 2, "members": members} for members in samples])


def index(keys, name=None, collection="c", **options):
    spec = {"key": dict(keys), "name": name or "_".join(f"{field}{way}" for field, way in keys), **options}
    return IndexFacts(collection, spec["name"], spec, ready=True)


def test_the_catalogue_has_a_file_a_title_and_advice_for_every_check_and_the_tasks_know_its_groups():
    assert len({check.id for check in CHECKS}) == len(CHECKS) == 38
    assert all(check.title and check.todo.endswith(".") for check in CHECKS)
    assert tasks.GROUPS == GROUPS


def test_a_group_that_there_is_not_is_refused():
    assert {check.group for check in chosen(["own"])} == {"own"}
    with pytest.raises(UnknownGroupError, match="nothing"):
        chosen(["own", "nothing"])


@pytest.mark.parametrize(
    ("limits", "value", "status"),
    [
        (Limits(10, 60), 9.9, OK), (Limits(10, 60), 10, WARN), (Limits(10, 60), 60, CRIT), (Limits(10), 1e9, WARN),
        (Limits(7, 0), 8, OK), (Limits(7, 0), 7, WARN), (Limits(7, 0), -3, CRIT), (Limits(), 5, OK),
    ],
)  # fmt: skip
def test_a_value_is_graded_at_its_limits_whichever_way_is_bad(limits, value, status):
    assert limits.grade(value) is status


def test_members_that_are_away_a_set_without_primary_and_without_majority():
    well = [member("a", 1), member("b"), member("c")]

    assert found("replication_state", replication(well)) == {}
    assert found("replication_state", replication([member("a", 1), member("b"), member("c", 8, health=0)])) == {
        "c": WARN
    }
    lost = found("replication_state", replication([member("a"), member("b", 8, health=0), member("c", 8, health=0)]))
    assert lost == {"all": CRIT, "majority": CRIT, "b": WARN, "c": WARN}


def test_lag_counts_in_both_samples_never_negative_and_not_for_members_that_are_away():
    slow, moment_slow = [member("a", 1), member("b", behind=70)], [member("a", 1), member("b", behind=2)]
    ahead = [member("a", 1, behind=5), member("b", behind=0)]
    away = [member("a", 1), member("b"), member("c", 8, behind=1e9, health=0)]

    assert found("replication_lag", replication(slow, slow)) == {"b": CRIT}
    assert found("replication_lag", replication(slow, moment_slow)) == {"b": OK}
    assert found("replication_lag", replication(ahead, ahead)) == {"b": OK}
    assert found("replication_lag", replication(away, away)) == {"b": OK}
    with pytest.raises(NotApplicableError):
        found("replication_lag", replication([member("a", 1)], [member("a", 1)]))
    with pytest.raises(FactMissingError):
        found("replication_lag", replication(well := [member("a"), member("b")], well))


@pytest.mark.parametrize(
    ("hours", "fill", "status"), [(0.01, 0.0, OK), (5, 0.95, CRIT), (20, 0.95, WARN), (30, 1.0, OK)]
)
def test_the_oplog_window_says_nothing_before_the_oplog_is_full(hours, fill, status):
    oplog = {"first": NOW - timedelta(hours=hours), "last": NOW, "size": fill * 1000, "most": 1000}

    assert found("oplog_window", snapshot(oplog=oplog)) == {"all": status}


def test_a_resume_token_is_dated_and_one_that_fell_out_is_critical():
    def token(at):
        return {"_data": f"82{int(at.timestamp()):08X}000000012B0229296E04"}

    assert moment(token(NOW)) == NOW
    assert moment({"_data": "zz"}) is None
    tokens = {"old": -11, "near": -9.5, "fine": -2}
    kept = [(name, token(NOW + timedelta(hours=hours))) for name, hours in tokens.items()] + [("odd", 5)]
    full = Tokens(NOW - timedelta(hours=10), NOW, 1.0, kept)
    assert found("resume_tokens", full) == {"old": CRIT, "near": CRIT, "fine": OK, "odd": Status.UNKNOWN}
    assert found("resume_tokens", replace(full, fill=0.2)) == {
        "old": CRIT,
        "near": OK,
        "fine": OK,
        "odd": Status.UNKNOWN,
    }


def test_server_pressure_needs_both_samples():
    full = {"connections": {"current": 95, "available": 5}, "cache": {"used": 97, "dirty": 1, "most": 100},
            "tickets": {"read": {"available": 1, "totalTickets": 100}}, "extra_info": {"page_faults": 60_000}}  # fmt: skip
    calm = {
        **full,
        "cache": {"used": 50, "dirty": 1, "most": 100},
        "tickets": {"read": {"available": 90, "totalTickets": 100}},
        "extra_info": {"page_faults": 0},
    }
    steady, passing = snapshot(server=full, earlier=full), snapshot(server=full, earlier=calm, seconds_between=10)

    assert found("connections", steady) == {"all": CRIT}
    assert found("cache", steady) == {"used": CRIT, "dirty": OK}
    assert found("cache", passing) == {"used": OK, "dirty": OK}
    assert found("tickets", steady) == {"read": CRIT}
    assert found("tickets", passing) == {"read": OK}
    assert found("page_faults", steady) == {"all": OK}
    assert found("page_faults", passing) == {"all": CRIT}


def test_what_waits_for_changes_is_no_long_operation():
    one = {
        "opid": 7,
        "active": True,
        "seconds": 700,
        "op": "command",
        "command": "find",
        "waits": False,
        "ns": "m.c",
        "transaction_seconds": 0,
    }
    operations = [
        one,
        {**one, "waits": True, "ns": "m.feed"},
        {**one, "active": False, "ns": "m.idle"},
        {**one, "seconds": 5, "ns": "m.quick"},
    ]

    assert found("long_operations", snapshot(operations=operations)) == {"find on m.c": CRIT}


def test_days_to_full_needs_enough_history_and_growth():
    growing = [Point(NOW + timedelta(days=day), 50 + 5 * day) for day in range(6)]

    assert days_to_full(growing) == pytest.approx(5)
    assert days_to_full(growing[:4]) is None
    assert days_to_full([replace(point, value=50) for point in growing]) is None
    facts = Disk(NOW + timedelta(days=6), {"fsUsedSize": 80, "fsTotalSize": 100}, growing)
    assert found("disk_used", facts) == {"all": WARN, "days to full": CRIT}


def test_fragmentation_goes_by_free_space_not_by_compression():
    megabyte = 1024 * 1024
    sizes = {
        "fresh": {"storageSize": 900 * megabyte, "freeStorageSize": 0, "size": 800 * megabyte},
        "holes": {"storageSize": 900 * megabyte, "freeStorageSize": 600 * megabyte, "size": megabyte},
        "small": {"storageSize": megabyte, "freeStorageSize": megabyte, "size": 1},
    }

    assert found("fragmentation", sizes) == {"holes": WARN}


def test_a_count_is_wrong_only_beyond_what_was_written_meanwhile():
    facts = {"busy": Counted(10, 12, 15), "wrong": Counted(5_000, 20_000, 5_000), "shrinking": Counted(15, 12, 10)}

    assert found("counts", facts) == {"wrong": WARN}


def test_every_collection_is_validated_once_a_week():
    days = {name: [day for day in range(7) if due(name, day)] for name in ("users", "tracks", "playlists", "consent")}

    assert all(len(found) == 1 for found in days.values())
    assert found(
        "validation",
        {
            "c": {"indexDetails": {"a_1": {"valid": False}}},
            "d": {"valid": False, "nNonCompliantDocuments": 3},
            "e": None,
        },
    ) == {"c": CRIT, "e": Status.UNKNOWN}


REDUNDANT = [
    ([index([("a", 1)]), index([("a", 1), ("b", 1)])], {"a1"}),
    ([index([("a", -1)]), index([("a", 1), ("b", -1)])], {"a-1"}),
    ([index([("a", 1)], "later"), index([("a", -1)], "first")], {"later"}),
    ([index([("a", 1), ("b", 1)]), index([("a", 1), ("b", -1), ("c", 1)])], set()),
    ([index([("a", 1)]), index([("ab", 1), ("c", 1)])], set()),
    ([index([("a", 1)]), index([("a", "hashed")])], set()),
    ([index([("b", 1), ("a", 1)]), index([("a", 1), ("b", 1), ("c", 1)])], set()),
    ([index([("a", 1)], unique=True), index([("a", 1), ("b", 1)])], set()),
    ([index([("a", 1)], expireAfterSeconds=5), index([("a", 1), ("b", 1)])], set()),
    ([index([("a", 1)], collation={"locale": "de"}), index([("a", 1), ("b", 1)])], set()),
    ([index([("a", 1)], partialFilterExpression={"x": 1}), index([("a", 1), ("b", 1)])], set()),
    ([index([("a", 1)]), index([("a", 1), ("b", 1)], sparse=True)], set()),
    ([index([("a", 1)]), index([("a", 1), ("b", 1)], collection="other")], set()),
    ([index([("$**", 1)], "some", wildcardProjection={"a": 1}), index([("$**", 1)], "all")], set()),
    ([index([("a", 1)]), index([("a", 1), ("$**", 1)])], set()),
    ([index([("a", 1)], collation={"locale": "de"}), index([("a", 1), ("b", 1)], collation={"locale": "de"})], {"a1"}),
    ([index([("_id", 1)], "_id_"), index([("_id", 1), ("b", 1)])], set()),
]


@pytest.mark.parametrize(("indexes", "names"), REDUNDANT)
def test_an_index_is_redundant_only_when_another_one_serves_all_its_queries(indexes, names):
    assert {one.name for one, _ in redundant(indexes)} == names
    assert {one.name for one, _ in redundant(indexes[::-1])} == names


def test_an_index_is_unused_only_when_every_member_says_so_for_long_enough():
    old, young = NOW - timedelta(days=40), NOW - timedelta(days=3)
    usages = [
        Usage(index([("idle", 1)]), {"a": (0, old), "b": (0, old)}),
        Usage(index([("busy", 1)]), {"a": (0, old), "b": (9, old)}),
        Usage(index([("young", 1)]), {"a": (0, old), "b": (0, young)}),
        Usage(index([("half", 1)]), {"a": (0, old)}),
    ]

    assert found("unused_indexes", Used(NOW, 2, usages)) == {"c.idle1": WARN}


def test_the_ttl_monitor_is_stuck_when_it_made_no_pass_for_three_pauses():
    def facts(passes, uptime=9_000, past=(), enabled=True):
        parameters = {"ttlMonitorEnabled": enabled, "ttlMonitorSleepSecs": 60}
        return Monitor(snapshot(parameters=parameters, server={"ttl": {"passes": passes}, "uptime": uptime}), past)

    hour_ago = [Point(NOW - timedelta(hours=1), 5)]
    assert found("ttl_monitor", facts(6, past=hour_ago)) == {"all": OK}
    assert found("ttl_monitor", facts(5, past=hour_ago)) == {"all": CRIT}
    assert found("ttl_monitor", facts(0, uptime=20)) == {"all": OK}
    assert found("ttl_monitor", facts(0)) == {"all": CRIT}
    assert found("ttl_monitor", facts(2, uptime=600, past=hour_ago)) == {"all": OK}  # restarted since
    assert found("ttl_monitor", facts(9, enabled=False)) == {"all": CRIT}


def test_null_keeps_a_document_where_the_validator_says_so():
    spec = {"key": {"expires_at": 1}, "expireAfterSeconds": 0}
    allowing = {
        "$jsonSchema": {"required": ["expires_at"], "properties": {"expires_at": {"bsonType": ["date", "null"]}}}
    }

    assert without_date(spec, None) == {"$nor": [{"expires_at": {"$type": "date"}}]}
    assert {"expires_at": {"$type": "null"}} in without_date(spec, allowing)["$nor"]
    assert [never_expires({"expireAfterSeconds": seconds}) for seconds in (0, 2_147_483_647, float("nan"))] == [
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("tag", "known"),
    [("pt-BR", True), ("zh-Hant-TW", True), ("english", False), ("EN", False), ("en_GB", False), ("", False)],
)
def test_a_language_is_a_canonical_tag(tag, known):
    assert is_known(tag, frozenset()) is known
    assert not is_known("xx", frozenset({"en", "pt"}))


def test_leases_migrations_waivers_and_mutes():
    hours = timedelta(hours=1)
    leases = [
        {"_id": "died", "released": False, "acquired_at": NOW - 9 * hours, "expires_at": NOW - hours},
        {"_id": "long", "released": False, "acquired_at": NOW - 90 * hours, "expires_at": NOW + hours},
        {"_id": "given back", "released": True, "acquired_at": NOW - 90 * hours, "expires_at": NOW - hours},
        {"_id": "never held", "expires_at": datetime(1970, 1, 1, tzinfo=UTC)},
    ]
    states = [
        {"_id": "001_a", "state": "applied"},
        {"_id": "002_b", "state": "failed"},
        {"_id": "003_c", "state": "running"},
    ]
    holder = {"_id": "migrations", "released": False, "acquired_at": NOW, "expires_at": NOW + hours}

    assert found("stuck_lease", snapshot(leases=leases)) == {"died": WARN, "long": CRIT}
    assert found("interrupted_migration", snapshot(migrations=states)) == {"002_b": CRIT, "003_c": CRIT}
    assert found("interrupted_migration", snapshot(migrations=states, leases=[holder])) == {"002_b": CRIT}
    today = date(2026, 3, 1)
    waivers = [Waived(str(days), today + timedelta(days=days), "Grace") for days in (-1, 0, 14, 15)]
    assert found("coverage_waivers", Waivers(today, waivers)) == {"-1": CRIT, "0": WARN, "14": WARN}
    mutes = [Mute("cache", "*", "Grace", today - timedelta(days=days), "known") for days in (0, 1)]
    assert found("lapsed_mutes", Mutes(today, mutes[1:])) == {"cache *": WARN}
    assert found("lapsed_mutes", Mutes(today, mutes[:1])) == {}


def test_backups_are_missed_only_where_somebody_relies_on_them():
    assert found("backup_age", Last(NOW, NOW - timedelta(hours=30), protected=False)) == {"all": WARN}
    assert found("backup_age", Last(NOW, None, protected=True)) == {"all": CRIT}
    assert found("restore_test_age", Last(NOW, None, protected=True)) == {"all": WARN}
    with pytest.raises(NotApplicableError):
        found("backup_age", Last(NOW, None, protected=False))


def test_security_goes_by_what_can_be_reached():
    open_to_all = {"bind": "127.0.0.1,10.0.0.7", "bind_all": False, "tls": "preferTLS", "authorization": False}
    users = [
        {"name": "admin.ana", "roles": ["root"]},
        {"name": "m.app", "roles": ["readWrite"]},
        {"name": "admin.dba", "roles": ["clusterAdmin"]},
    ]

    assert found("open_door", snapshot(options=open_to_all)) == {"authorization": CRIT, "tls": WARN}
    assert found("open_door", snapshot(options={**open_to_all, "tls": "requireTLS", "authorization": True})) == {}
    for bind in ("127.0.0.1,/tmp/socket", "localhost, ::1", "127.0.0.2"):
        with pytest.raises(NotApplicableError):
            found("open_door", snapshot(options={**open_to_all, "bind": bind}))
    assert found("open_door", snapshot(options={**open_to_all, "bind": "localhost.example.org"})) == {
        "authorization": CRIT,
        "tls": WARN,
    }
    assert found(
        "wide_roles", snapshot(users=users), options={"roles": ["root", "clusterAdmin"], "allowed": ["admin.dba"]}
    ) == {"admin.ana": WARN}
    assert found("server_version", snapshot(server={"version": "6.0.5"})) == {"all": WARN}
    assert found("server_version", snapshot(server={"version": "8.0.1"})) == {"all": OK}
    expiry = {"security": {"SSLServerCertificateExpirationDate": NOW + timedelta(days=6)}}
    assert found("certificate_expiry", snapshot(server=expiry)) == {"all": CRIT}


def test_a_fact_that_could_not_be_read_is_unknown_and_never_well():
    with pytest.raises(FactMissingError, match="Unauthorized"):
        found("connections", snapshot(missing={"server": "OperationFailure Unauthorized"}))


def test_evidence_is_keys_that_name_nobody_and_few():
    person, key, number = "ann@example.org", ObjectId("65f000000000000000000001"), UUID(int=5)

    shown = shown_ids([key, 7, Int64(8), person, number, True, {"mail": person}, 1.5, None])

    assert shown[:3] == (str(key), "7", "8")
    assert all(re.fullmatch("#[0-9a-f]{10}", one) for one in shown[3:])
    assert len(set(shown)) == 9
    assert shown_ids([person]) == shown[3:4]
    assert len(shown_ids(range(500))) == 20


def test_a_snapshot_is_the_same_after_it_was_stored():
    validator = {"$jsonSchema": {"properties": {"a": {"pattern": "^x"}}}, "name": {"$regex": "^a", "$options": "i"}}
    made = snapshot(
        catalogue=[{"name": "c", "type": "collection", "md": {"options": {"validator": validator}, "indexes": []}}]
    )

    back = Snapshot.of_bytes(made.as_bytes())
    assert back.as_bytes() == made.as_bytes()
    assert (back.catalogue, back.taken_at) == (made.catalogue, made.taken_at)
    assert back.has("c")
