"""Create the collections for AI content, auditing, security, consent, places, translations and versions, with validators.

Meanwhile: `audit_log` may exist already, because mongo-ops writes its own audit trail there, and may hold entries of other programs.
It is adopted: it keeps its documents and indexes and gets a validator. Undone by dropping the collections (a rollback snapshots them
first) and by giving an adopted `audit_log` its former options back.

Personal data and its end of life were decided here, because a schema makes that easy or impossible:

- `consent` holds one document per decision and is never updated; the latest per user and type counts. A withdrawal is evidence too.
- `consent` and `security_events` outlive the account, so `user_id` may give way to `subject_ref`, a keyed pseudonym.
- `security_events` carry their own `expires_at`, because retention depends on what happened; null means kept, under a legal hold.
- `audit_log` accepts events of the system: `entity_id` may be an ObjectId, a string, an int or null, but must be there.
"""

from mongo_ops.migrations import CreateCollection, Migration

from ._shapes import (
    BOOL,
    CONSENT_TYPES,
    COUNT,
    DATE,
    DATE_OR_NULL,
    ENTITY_TYPE,
    LANGUAGE_TAG,
    OBJECT_ID,
    OBJECT_ID_OR_NULL,
    ORDINAL,
    POINT,
    SHA256_HEX,
    SUBJECT_REF,
    TEXT_INDEX_LANGUAGES,
    array,
    one_of,
    record,
    text,
    validator,
)

ENTITY_ID = {"bsonType": ["objectId", "string", "int"]}
ENTITY_ID_OR_NULL = {"bsonType": ["objectId", "string", "int", "null"]}
TEXT_OR_NULL = {"bsonType": ["string", "null"]}
SOMEBODY = [{"required": ["user_id"]}, {"required": ["subject_ref"]}]  # never nobody, and never a guess

ai_content = {
    "entity_type": ENTITY_TYPE,
    "entity_id": OBJECT_ID,
    "kind": one_of("description", "lyrics", "summary", "cover_art", "recommendation"),
    "version": ORDINAL,  # of this content for this entity and kind
    "model": text(200),  # which model, as its maker names it, with its own version
    "prompt": text(50_000),
    "content": text(500_000),
    "asset_key": text(1_024),  # for what does not fit a document: images, audio
    "language": LANGUAGE_TAG,
    "embedding": {"bsonType": ["array", "binData"], "minItems": 1, "maxItems": 8_192, "items": {"bsonType": "number"}},
    "embedding_model": text(200),
    "status": one_of("draft", "published", "withdrawn"),
    "user_id": OBJECT_ID,  # who prompted for it; a prompt may say anything about a person
    "created_at": DATE,
    "updated_at": DATE,
}

chain = record(
    {"seq": {"bsonType": "long", "minimum": 1}, "previous": SHA256_HEX, "hash": SHA256_HEX, "version": ORDINAL},
    ["seq", "previous", "hash", "version"],
)

audit_log = {
    "entity_type": {**ENTITY_TYPE, "description": "what was acted on: user, consent, system, ..."},
    "entity_id": {**ENTITY_ID_OR_NULL, "description": "null for an event of the system"},
    "action": text(120),
    "timestamp": DATE,
    "actor_id": ENTITY_ID_OR_NULL,
    # What mongo-ops adds to its own entries:
    "environment": text(120),
    "result": text(120),
    "run_id": TEXT_OR_NULL,
    "plan_digest": TEXT_OR_NULL,
    "actor_kind": text(60),
    "details": {"bsonType": "object"},
    "chain": chain,
    "commitments": {"bsonType": "object", "additionalProperties": SHA256_HEX},
    "personal": {"bsonType": "object"},
}
chained = {"chain": ["environment", "result", "run_id", "plan_digest", "details", "commitments"]}

security_events = {
    "event_type": one_of(
        *("login_succeeded", "login_failed", "logout", "password_changed", "mfa_changed", "token_revoked"),
        *("permission_changed", "account_locked", "suspicious_activity"),
    ),
    "severity": one_of("info", "warning", "critical"),
    "user_id": OBJECT_ID_OR_NULL,  # null: a log-in that named no account of ours
    "subject_ref": SUBJECT_REF,
    "ip": text(45),  # the longest text of an IPv6 address, RFC 4291 section 2.2
    "user_agent": text(512),
    "details": {"bsonType": "object"},
    "occurred_at": DATE,
    "expires_at": DATE_OR_NULL,
}

consent = {
    "user_id": OBJECT_ID,
    "subject_ref": SUBJECT_REF,
    "type": one_of(*CONSENT_TYPES),
    "granted": BOOL,
    "policy_version": text(40),
    "policy_digest": SHA256_HEX,  # of the very text that was shown
    "language": LANGUAGE_TAG,  # of that text
    "source": one_of("web", "ios", "android", "support", "import"),
    "recorded_at": DATE,
    "expires_at": DATE_OR_NULL,
}

geo_events = {
    "user_id": OBJECT_ID,
    "event_type": one_of("check_in", "concert", "play", "nearby_search"),
    "location": POINT,
    "accuracy_m": {"bsonType": "number", "minimum": 0},
    "track_id": OBJECT_ID,
    "ts": DATE,
}

multilingual_content = {
    "entity_type": ENTITY_TYPE,
    "entity_id": OBJECT_ID,
    "field": text(60),  # which text of the entity: bio, description, ...
    "lang": LANGUAGE_TAG,
    "text_language": {
        **one_of(*TEXT_INDEX_LANGUAGES),
        "description": "how the text index stems it; 'none' for languages it does not know",
    },
    "title": text(300),
    "text": text(100_000),
    "translation": one_of("original", "human", "machine"),
    "source_lang": LANGUAGE_TAG,
    "created_at": DATE,
    "updated_at": DATE,
}

versioning = {
    "entity_type": ENTITY_TYPE,
    "entity_id": ENTITY_ID,
    "version": ORDINAL,
    "snapshot": {"bsonType": "object"},
    "diff": array(
        record({"op": one_of("add", "remove", "replace"), "path": text(1_000), "value": {}}, ["op", "path"]), 1_000
    ),
    "changed_by": ENTITY_ID_OR_NULL,
    "changed_at": DATE,
    "reason": text(500),
    "size_bytes": COUNT,
}

migration = Migration(
    tags=("advanced",),
    operations=[
        CreateCollection(
            "ai_content",
            validator=validator(
                "Content made by a model",
                ai_content,
                ["entity_type", "entity_id", "kind", "version", "model", "prompt", "status", "created_at"],
                dependencies={"embedding": ["embedding_model"]},  # vectors of two models cannot be compared
            ),
        ),
        CreateCollection(
            "audit_log",
            validator=validator(
                "An audit entry",
                {"_id": {}, **audit_log},  # other programs chose their own keys
                ["entity_type", "entity_id", "action", "timestamp"],
                dependencies=chained,
            ),
            level="moderate",  # an old entry of another form can still be redacted
            adopt=True,
        ),
        CreateCollection(
            "security_events",
            validator=validator(
                "A security event",
                security_events,
                ["event_type", "severity", "occurred_at", "expires_at"],
                closed=True,
                anyOf=SOMEBODY,
            ),
        ),
        CreateCollection(
            "consent",
            validator=validator(
                "One decision about one purpose",
                consent,
                ["type", "granted", "policy_version", "source", "recorded_at"],
                closed=True,
                anyOf=SOMEBODY,
            ),
        ),
        CreateCollection(
            "geo_events",
            validator=validator(
                "Somebody was somewhere", geo_events, ["user_id", "event_type", "location", "ts"], closed=True
            ),
        ),
        CreateCollection(
            "multilingual_content",
            validator=validator(
                "A text in one language",
                multilingual_content,
                ["entity_type", "entity_id", "field", "lang", "text", "translation", "created_at"],
            ),
        ),
        CreateCollection(
            "versioning",
            validator=validator(
                "A former state of a document",
                versioning,
                ["entity_type", "entity_id", "version", "snapshot", "changed_at"],
            ),
        ),
    ],
)
