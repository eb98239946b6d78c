"""The data map's file: what it may say, what is told about what it may not, and what its digest covers."""

from __future__ import annotations

import pytest
import yaml
from tests.erasure_maps import chinook

from mongo_ops import settings
from mongo_ops.erasure.map_file import DataMapError, load_map, parse_map
from mongo_ops.erasure.model import Change, FieldNote, Ground, Rule, Waiver

SMALL = """
version: 3
subject: user_id
backups: P35D
identifiers:
  user_id: {collection: users, path: _id, types: [objectId, string], forbid: [anonymous]}
  email: {collection: users, path: email, hashes: [sha256]}
  song_id: {collection: songs, path: _id, where: {by: $user_id}, remains: [songs._id], why: published}
recipients: {mail: sends mail}
collections:
  users:
    fields: {_id: user.unique_id, email: {category: user.contact.email, recipients: [mail]}}
    rules: {account: {select: {_id: $user_id}, action: delete, stage: root}}
  songs:
    fields: {_id: system, by: user.unique_id, at: system, "tags[]": system}
    rules:
      theirs:
        select: {by: $user_id}
        action: pseudonymize
        stage: parents
        why: people sing them
        changes: [{path: by, op: reference}]
        ground: {basis: art17_3_e, purpose: claims, owner: dpo, period: P3Y}
    retention:
      old: {start: at, period: P10Y, action: anonymize, changes: [{path: by, op: unset}]}
waivers: [{path: cache.*, why: rebuilt daily, owner: ops, until: 2027-01-31}]
"""


def changed(**changes):
    """The small map with other values at dotted places, as text."""
    content = yaml.safe_load(SMALL)
    for place, value in changes.items():
        *way, last = place.split("__")
        target = content
        for step in way:
            target = target[step]
        target[last] = value
    return yaml.safe_dump(content)


def test_a_map_is_read_as_values():
    found = parse_map(SMALL, "x.yaml")

    assert (found.version, found.subject, found.backups_period) == (3, "user_id", "P35D")
    assert found.identifiers["user_id"].types == ("objectId", "string")
    assert found.identifiers["email"].where == {"_id": "$user_id"}, "the subject's own document"
    assert found.identifiers["song_id"].where == {"by": "$user_id"}
    assert found.collections["users"].fields == {
        "_id": FieldNote("user.unique_id"),
        "email": FieldNote("user.contact.email", recipients=("mail",)),
    }
    ground = Ground("art17_3_e", "claims", "dpo", period="P3Y")
    assert [rule.id for rule in found.rules] == ["songs.theirs", "users.account"]
    assert found.rule("songs.theirs") == Rule(
        "songs.theirs", "songs", {"by": "$user_id"}, "pseudonymize", "parents",
        (Change("by", "reference"),), ground, "people sing them",
    )  # fmt: skip
    assert found.collections["songs"].retention[0].id == "songs.old"
    assert found.waivers == (Waiver("cache.*", "rebuilt daily", "ops", "2027-01-31"),)
    assert (found.limits.subjects, found.limits.share) == (20_000, 0.5)


def test_the_digest_is_of_what_the_map_means():
    digest = parse_map(SMALL, "x").digest

    assert len(digest) == 64
    same = [
        SMALL + "\n# a comment\n",
        yaml.safe_dump(yaml.safe_load(SMALL), sort_keys=True),
        changed(limits={"subjects": 20_000}),
        changed(collections__users__fields___id={"category": "user.unique_id"}),
    ]
    assert {parse_map(text, "y").digest for text in same} == {digest}
    others = [
        changed(version=4),
        changed(limits={"subjects": 1}),
        changed(backups="P36D"),
        changed(collections__songs__rules__theirs__why="they do"),
        changed(collections__songs__fields__new="system"),
        changed(identifiers__user_id__forbid=[]),
        changed(waivers=[]),
    ]
    assert len({parse_map(text, "y").digest for text in others} | {digest}) == len(others) + 1


CHANGE = "collections__songs__rules__theirs__changes"
SELECT = "collections__songs__rules__theirs__select"
WRONG = [
    ({"subject": "nobody"}, "nobody is none of the identifiers"),
    ({"version": 0}, "version: "),
    ({"backups": "35 days"}, "backups: Value error, must be an ISO 8601 duration"),
    ({"backups": "P"}, "ISO 8601"),
    ({"backups": "PT36H"}, "of years, months, weeks and days"),
    ({"backups": "P1DT1H"}, "of years, months, weeks and days"),
    ({"backups": "P1001Y"}, "at most 1,000 years"),
    ({"collections__songs__retention__old__period": "P9999999999D"}, "at most 1,000 years"),
    ({"colletions": {}}, "colletions: Extra inputs"),
    ({"collections__users__fields__email": "mail"}, "collections.users.fields.email"),
    ({"collections__users__fields": {}}, "collections.users.fields"),
    ({"collections__users__fields": {"a..b": "system"}}, "must be a path"),
    ({"identifiers__email__types": ["text"]}, "identifiers.email.types.0"),
    ({"identifiers__email__hashes": ["crc"]}, "crc is none of md5, sha1, sha256"),
    ({"identifiers__email__where": {}}, "not empty"),
    ({"identifiers__user_id__forbid": [None]}, "identifiers.user_id.forbid"),
    ({SELECT: {}}, "not empty"),
    ({SELECT: {"by": None}}, "must not be compared with null"),
    ({SELECT: {"by": [None]}}, "must not be compared with null"),
    ({SELECT: {"by": {"$ne": 1}}}, "{exists: true or false} or {not: constant}"),
    ({SELECT: {"$where": "x"}}, "must be a path"),
    ({SELECT: {"any": {"by": "$user_id"}}}, "`any` must be a list"),
    ({SELECT: {"any": []}}, "`any` must be a list"),
    ({SELECT: {"anywhere": "email"}}, "`anywhere` must be a list"),
    ({SELECT: {"likes.{user_id}": 1}}, "must have the value `exists`"),
    ({"collections__songs__rules__theirs__action": "forget"}, "collections.songs.rules.theirs.action"),
    ({"collections__songs__rules__theirs__stage": "first"}, "collections.songs.rules.theirs.stage"),
    ({"collections__songs__rules__theirs__ground__owner": ""}, "ground.owner"),
    ({CHANGE: [{"path": "by", "op": "erase"}]}, "changes.0.op"),
    ({CHANGE: [{"path": "tags[]", "op": "pull", "where": "user_id"}]}, "where must be $identifier"),
    ({CHANGE: [{"path": "tags[]", "op": "pull", "where": {"any": [{"a": 1}]}}]}, "where cannot use any"),
    ({"collections__songs__retention__old__period": "10 years"}, "retention.old.period"),
    ({"collections__songs__retention__old__action": "pull"}, "retention.old.action"),
    ({"waivers": [{"path": "x", "why": "w", "owner": "o", "until": "soon"}]}, "must be a day"),
    ({"waivers": [{"path": "x", "why": "w", "owner": "", "until": "2027-01-01"}]}, "waivers.0.owner"),
    ({"limits": {"share": 2}}, "limits.share"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "said"), WRONG)
def test_a_wrong_map_is_refused_with_its_place(changes, said):
    with pytest.raises(DataMapError) as caught:
        parse_map(changed(**changes), "x.yaml")
    assert str(caught.value).startswith("x.yaml is not a data map")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "not valid YAML"),
        ("- 1", "must be a mapping"),
        ("", "must be a mapping"),
        (SMALL.replace("version: 3", "version: 3\nversion: 4"), "the key 'version' is there twice"),
        (SMALL.replace("at: system", "at: system, by: system"), "the key 'by' is there twice"),
        ("a: !!python/object/apply:os.system [x]", "not valid YAML"),
    ],
)
def test_what_is_no_map_at_all(text, said):
    with pytest.raises(DataMapError) as caught:
        parse_map(text, "x.yaml")
    assert said in str(caught.value)


def test_all_faults_are_told_at_once():
    with pytest.raises(DataMapError) as caught:
        parse_map(changed(version=0, backups="x", collections__users__fields__email="mail"), "x.yaml")
    assert len(str(caught.value).splitlines()) >= 4


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(DataMapError, match="write a data map"):
        load_map(tmp_path)
    (tmp_path / "data_map.yaml").write_text(SMALL)
    assert load_map(tmp_path).digest == parse_map(SMALL, "x").digest


def test_the_projects_own_map_and_the_foreign_one_are_in_order():
    reference = load_map(settings.PROJECT / "include")
    foreign = chinook.data_map()

    assert (reference.subject, foreign.subject) == ("user_id", "customer_id")
    assert {rule.collection for rule in reference.rules} == set(reference.collections)
    assert not set(reference.collections) & set(foreign.collections) - {"ops_before_*", "audit_log"}  # mongo-ops's own
    assert reference.rules[-1].id == "users.account"


def test_consent_types_are_tied_to_what_is_processed_under_them():
    tied = {
        (one.consent, one.id)
        for entry in load_map(settings.PROJECT / "include").collections.values()
        for one in entry.retention
        if one.consent
    }

    assert tied == {
        ("analytics", "analytics.events"),
        ("personalisation", "ai_content.recommendations"),
        ("personalisation", "geo_events.places"),
        ("marketing", "geo_events.offers"),
        ("ai_training", "ai_content.embeddings"),
    }
