"""The same six small migrations, written for each tool the way its own documentation would.

1,000 users, a unique index, two updates of all users, 100 orders, and a rename. Pure text; nothing here runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

USERS, ORDERS = 1000, 100


@dataclass(frozen=True)
class Step:
    """One migration as PyMongo statements on ``db``."""

    slug: str
    up: str
    down: str


STEPS = (
    Step(
        "users",
        f'db.users.insert_many([{{"_id": i, "email": f"u{{i}}@example.test", "name": "n"}} for i in range({USERS})])',
        "db.users.delete_many({})",
    ),
    Step("unique", 'db.users.create_index("email", unique=True)', 'db.users.drop_index("email_1")'),
    Step(
        "status",
        'db.users.update_many({}, {"$set": {"status": "active"}})',
        'db.users.update_many({}, {"$unset": {"status": ""}})',
    ),
    Step("count", 'db.users.update_many({}, {"$inc": {"n": 1}})', 'db.users.update_many({}, {"$unset": {"n": ""}})'),
    Step(
        "orders",
        f'db.orders.insert_many([{{"_id": i, "user": i}} for i in range({ORDERS})])',
        "db.orders.delete_many({})",
    ),
    Step("rename", 'db.orders.rename("purchases")', 'db.purchases.rename("orders")'),
)

OURS = {
    "users": f'InsertDocuments("users", [{{"_id": i, "email": f"u{{i}}@example.test", "name": "n"}} for i in range({USERS})])',
    "unique": 'CreateIndex("users", [("email", 1)], unique=True)',
    "status": 'Backfill("users", {"$set": {"status": "active"}}, revert={"$unset": {"status": ""}})',
    "count": 'Backfill("users", {"$inc": {"n": 1}}, revert={"$unset": {"n": ""}})',
    "orders": f'InsertDocuments("orders", [{{"_id": i, "user": i}} for i in range({ORDERS})])',
    "rename": 'RenameCollection("orders", "purchases")',
}

MONGOMIG = {
    "users": (STEPS[0].up.replace("db.users", 'ctx.collection("users")'), 'ctx.collection("users").delete_many({})'),
    "unique": (
        'ctx.ops.create_index("users", "email", unique=True, name="email_1")',
        'ctx.ops.drop_index("users", "email_1")',
    ),
    "status": (
        'ctx.ops.backfill("users", {"status": {"$exists": False}}, {"$set": {"status": "active"}})',
        'ctx.ops.unset_field("users", "status")',
    ),
    "count": (
        'ctx.ops.backfill("users", {"n": {"$exists": False}}, {"$inc": {"n": 1}})',
        'ctx.ops.unset_field("users", "n")',
    ),
    "orders": (
        STEPS[4].up.replace("db.orders", 'ctx.collection("orders")'),
        'ctx.collection("orders").delete_many({})',
    ),
    "rename": ('ctx.ops.rename_collection("orders", "purchases")', 'ctx.ops.rename_collection("purchases", "orders")'),
}

NODE = {
    "users": (
        f"await db.collection('users').insertMany([...Array({USERS}).keys()].map(i => ({{_id: i, email: `u${{i}}@example.test`, name: 'n'}})));",
        "await db.collection('users').deleteMany({});",
    ),
    "unique": (
        "await db.collection('users').createIndex({email: 1}, {unique: true});",
        "await db.collection('users').dropIndex('email_1');",
    ),
    "status": (
        "await db.collection('users').updateMany({}, {$set: {status: 'active'}});",
        "await db.collection('users').updateMany({}, {$unset: {status: ''}});",
    ),
    "count": (
        "await db.collection('users').updateMany({}, {$inc: {n: 1}});",
        "await db.collection('users').updateMany({}, {$unset: {n: ''}});",
    ),
    "orders": (
        f"await db.collection('orders').insertMany([...Array({ORDERS}).keys()].map(i => ({{_id: i, user: i}})));",
        "await db.collection('orders').deleteMany({});",
    ),
    "rename": (
        "await db.collection('orders').rename('purchases');",
        "await db.collection('purchases').rename('orders');",
    ),
}

MONGOMIG_CONFIG = "database:\n  uri: ${MONGODB_URI}\n  name: ${MONGODB_DATABASE:-unset}\n"
NODE_CONFIG = """\
export default {
  mongodb: { url: process.env.MONGODB_URI, databaseName: process.env.MONGODB_DATABASE, options: {} },
  migrationsDir: "migrations", changelogCollectionName: "changelog", lockCollectionName: "changelog_lock",
  lockTtl: 0, migrationFileExtension: ".js", useFileHash: false, moduleSystem: "esm",
};
"""


def mongo_ops(folder: Path) -> None:
    """Write an include folder."""
    environments = (
        "environments:\n  development:\n    connection: mongo_development\n    storage: ${MONGO_OPS_STORAGE}\n"
    )
    _write(folder / "environments.yaml", environments)
    for number, step in enumerate(STEPS, 1):
        _write(folder / "migrations" / f"{number:03d}_{step.slug}.py", mongo_ops_file(OURS[step.slug]))


def mongo_ops_file(operation: str) -> str:
    """Return a migration file with one operation."""
    names = f"{operation.partition('(')[0]}, Migration"
    return f'"""Measure one operation, so that tools can be compared.\n\nNobody reads it meanwhile; undone by its reverse.\n"""\n\nfrom mongo_ops.migrations import {names}\n\nmigration = Migration(operations=[{operation}])\n'


def pymongo_migrate(folder: Path) -> None:
    """Write pymongo-migrate's folder."""
    before: str | None = None
    for number, step in enumerate(STEPS, 1):
        name = f"m{number:03d}_{step.slug}"
        head = f"name = {name!r}\ndependencies = {[before] if before else []!r}\n"
        body = f"\n\ndef upgrade(db):\n    {step.up}\n\n\ndef downgrade(db):\n    {step.down}\n"
        _write(folder / "migrations" / f"{name}.py", head + body)
        before = name


def mongodb_migrations(folder: Path) -> None:
    """Write mongodb-migrations' folder."""
    head = "from mongodb_migrations.base import BaseMigration\n\n\nclass Migration(BaseMigration):\n"
    for number, step in enumerate(STEPS, 1):
        up, down = (statement.replace("db.", "self.db.", 1) for statement in (step.up, step.down))
        body = f"    def upgrade(self):\n        {up}\n\n    def downgrade(self):\n        {down}\n"
        _write(folder / "migrations" / f"202601010000{number:02d}_{step.slug}.py", head + body)


def mongomig(folder: Path) -> None:
    """Write mongomig's project."""
    _write(folder / "mongomig.yaml", MONGOMIG_CONFIG)
    _write(
        folder / "migrations" / "env.py",
        "from mongomig import MongoMetadata\n\ntarget_metadata = MongoMetadata.default(storage='python')\n",
    )
    for number, (slug, (up, down)) in enumerate(MONGOMIG.items(), 1):
        mongomig_file(folder, number, slug, up, down)


def mongomig_file(folder: Path, number: int, slug: str, up: str, down: str = "pass") -> None:
    """Write one revision; it follows the one numbered before."""
    before = repr(_revision(number - 1)) if number > 1 else None
    body = f"def upgrade(ctx):\n    {up}\n\n\ndef downgrade(ctx):\n    {down}\n"
    head = f'"""{slug}"""\n\nrevision = {_revision(number)!r}\ndown_revision = {before}\n\n\n'
    _write(folder / "migrations" / "versions" / f"20260101_00{number:02d}_{_revision(number)}_{slug}.py", head + body)


def _revision(number: int) -> str:
    return f"{number:012x}"


def migrate_mongo(folder: Path) -> None:
    """Write migrate-mongo's project."""
    _write(folder / "migrate-mongo-config.js", NODE_CONFIG)
    _write(folder / "package.json", '{"type": "module"}\n')
    for number, (slug, (up, down)) in enumerate(NODE.items(), 1):
        text = f"export const up = async (db) => {{ {up} }};\nexport const down = async (db) => {{ {down} }};\n"
        _write(folder / "migrations" / f"202601010000{number:02d}-{slug}.js", text)


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
