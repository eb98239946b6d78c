"""Index the advanced collections: places, languages and full text, consent, versions, and the end of security events.

Meanwhile: reads and writes go on during each build. The TTL index starts to delete expired security events within a minute of its
build. Undone by dropping the indexes; what the TTL index deleted by then is gone, as its retention wanted.

The text index takes its stemming language from `text_language`, not from `lang` and not from MongoDB's default `language`: it knows
fifteen languages and no region, and refuses the whole insert of a document that names another one (`pt-BR`, `zh-Hant`). A document
without `text_language` is indexed word by word, without stemming.

Personal data gets a TTL index only in `security_events`, where every document says itself when its retention ends (and null keeps
it, under a legal hold). A TTL index leaves no evidence and knows no hold; elsewhere the retention job deletes, which has both.
"""

from mongo_ops.migrations import CollectionExists, CreateIndex, IndexExists, Migration

ADVANCED = (
    "ai_content",
    "audit_log",
    "security_events",
    "consent",
    "geo_events",
    "multilingual_content",
    "versioning",
)

migration = Migration(
    tags=("advanced",),
    requires=[CollectionExists(name) for name in ADVANCED],
    ensures=[
        IndexExists("geo_events", "location_2dsphere"),
        IndexExists("multilingual_content", "full_text"),
        IndexExists("security_events", "expiry"),
    ],
    operations=[
        CreateIndex(
            "ai_content",
            keys=[("entity_type", 1), ("entity_id", 1), ("kind", 1), ("version", -1)],
            name="entity_version_unique",
            unique=True,
        ),
        CreateIndex("ai_content", keys=[("user_id", 1)], name="user", sparse=True),
        CreateIndex("audit_log", keys=[("entity_type", 1), ("entity_id", 1), ("timestamp", -1)], name="entity_time"),
        CreateIndex("audit_log", keys=[("timestamp", -1)], name="time"),
        CreateIndex("security_events", keys=[("user_id", 1), ("occurred_at", -1)], name="user_time"),
        CreateIndex("security_events", keys=[("expires_at", 1)], name="expiry", ttl_seconds=0),
        CreateIndex("consent", keys=[("user_id", 1), ("type", 1), ("recorded_at", -1)], name="user_type_time"),
        CreateIndex("consent", keys=[("granted", 1), ("type", 1), ("recorded_at", -1)], name="granted_type_time"),
        CreateIndex("consent", keys=[("subject_ref", 1)], name="subject", sparse=True),
        CreateIndex("geo_events", keys=[("location", "2dsphere")], name="location_2dsphere"),
        CreateIndex("geo_events", keys=[("user_id", 1), ("ts", -1)], name="user_time"),
        CreateIndex(
            "multilingual_content",
            keys=[("entity_type", 1), ("entity_id", 1), ("field", 1), ("lang", 1)],
            name="entity_field_language_unique",
            unique=True,
        ),
        CreateIndex("multilingual_content", keys=[("lang", 1), ("entity_type", 1)], name="language"),
        CreateIndex(
            "multilingual_content",
            keys=[("title", "text"), ("text", "text")],
            name="full_text",
            weights={"title": 5, "text": 1},
            default_language="none",
            language_override="text_language",
        ),
        CreateIndex(
            "versioning",
            keys=[("entity_type", 1), ("entity_id", 1), ("version", -1)],
            name="entity_version_unique",
            unique=True,
        ),
    ],
)
