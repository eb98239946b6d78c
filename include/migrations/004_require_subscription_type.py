"""Put every user on a subscription, then demand that users have one, a status and a time of creation.

Deploy the application that writes `subscription_type`, `status` and `created_at` first: from the last operation on, an insert
without them is refused (code 121). The backfill comes before the demand, and takes up users who arrived without a status since 003,
so that no document is caught out. Undone by putting the former validator back and taking the added fields away again.

Validation is `moderate`: an update of a document that was invalid before is still let through, so that nobody is locked out of an
account that needs repair. Inserts, and updates of valid documents, are checked in full.
"""

from mongo_ops.migrations import AddField, Migration, NoneMatch, SetValidator

from ._shapes import USER, one_of, validator

user = {
    **USER,
    "status": one_of("active", "suspended", "closed"),
    "subscription_type": one_of("free", "premium", "family", "student"),
}
required = ["email", "display_name", "status", "subscription_type", "created_at"]

migration = Migration(
    tags=("core",),
    operations=[
        AddField("users", "subscription_type", value="free"),
        AddField("users", "status", value="active"),
        AddField("users", "created_at", expression={"$toDate": "$_id"}),
        SetValidator("users", validator("A user", user, required), level="moderate"),
    ],
    ensures=[NoneMatch("users", {"subscription_type": {"$exists": False}})],
)
