"""Run inside a peer's own environment: keep one process warm and time the peer's API, call by call.

Reads a line ``{"do": "up" | "noop" | "down", "database": ...}``, answers ``{"seconds": ...}``. Opening the connection is not
timed where the peer accepts an open one. Imports the standard library and the peer, nothing of this project.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

URI = os.environ["MONGODB_URI"]
Work = Callable[[], Any]


def pymongo_migrate(project: Path) -> Callable[[str, str], Work]:
    """Use MongoMigrate on an open client; loading the files is part of the work, as it is for mongo-ops."""
    import pymongo  # noqa: PLC0415
    from pymongo_migrate.mongo_migrate import MongoMigrate  # noqa: PLC0415

    client: Any = pymongo.MongoClient(URI)
    client.admin.command("ping")

    def prepare(do: str, database: str) -> Work:
        def work() -> None:
            made = MongoMigrate(client=client, database=database, migrations_dir=str(project / "migrations"))
            (made.downgrade if do == "down" else made.upgrade)()

        return work

    return prepare


def mongodb_migrations(project: Path) -> Callable[[str, str], Work]:
    """Use MigrationManager. It opens a connection for itself and one for each migration; there is no other way."""
    from mongodb_migrations.cli import MigrationManager  # noqa: PLC0415
    from mongodb_migrations.config import Configuration, Execution  # noqa: PLC0415

    def prepare(do: str, database: str) -> Work:
        base, _, query = URI.partition("/?")
        config = {"mongo_url": f"{base}/{database}?{query}", "mongo_migrations_path": str(project / "migrations")}
        config["execution"] = Execution.DOWNGRADE if do == "down" else Execution.MIGRATE
        return lambda: MigrationManager(Configuration(config)).run()

    return prepare


def mongomig(project: Path) -> Callable[[str, str], Work]:
    """Use Executor on an open database; reading config and files is part of the work."""
    from mongomig.config.loader import load_config  # noqa: PLC0415
    from mongomig.migrations.executor import Executor  # noqa: PLC0415
    from mongomig.migrations.graph import build_graph  # noqa: PLC0415
    from pymongo import MongoClient  # noqa: PLC0415

    client: Any = MongoClient(URI, tz_aware=True)
    client.admin.command("ping")

    def prepare(do: str, database: str) -> Work:
        os.environ["MONGODB_DATABASE"] = database

        def work() -> None:
            loaded = load_config(project / "mongomig.yaml")
            executor = Executor(loaded, build_graph(loaded.versions_dir), client[database])
            if do == "down":
                executor.downgrade("base")
            else:
                executor.upgrade("head", confirm=lambda _plan, _reasons: True)

        return work

    return prepare


def main() -> None:
    """Answer until the input ends."""
    logging.disable(logging.CRITICAL)
    tools = {"pymongo-migrate": pymongo_migrate, "mongodb-migrations": mongodb_migrations, "mongomig": mongomig}
    answer = sys.stdout
    prepare = tools[sys.argv[1]](Path(sys.argv[2]))
    for line in sys.stdin:
        asked = json.loads(line)
        work = prepare(asked["do"], asked["database"])
        with contextlib.redirect_stdout(sys.stderr):
            began = time.perf_counter()
            work()
            seconds = time.perf_counter() - began
        print(json.dumps({"seconds": seconds}), file=answer, flush=True)
        del work
        gc.collect()


if __name__ == "__main__":
    main()
