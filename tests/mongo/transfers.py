"""Transfers as the tests use them: in the test's own process, and as a process of its own that can be killed.

``python -m tests.mongo.transfers '{"do": "export", ...}'`` carries out the parts of a plan and finishes; it prints ``begun`` first.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
from bson.raw_bson import RawBSONDocument

from mongo_ops.mongo.batches import Progress
from mongo_ops.mongo.connection import ConnectionSpec, Target, connect
from mongo_ops.settings import Environment
from mongo_ops.storage import open_folder
from mongo_ops.storage.load import RAW
from mongo_ops.transfer import engine
from mongo_ops.transfer.content import Content, of_documents

ROOT = __file__.rpartition("/tests/")[0]


def silent(progress: Progress) -> None:
    del progress


@dataclass
class Transfers:
    """Exports and imports of one target, through JSON as between tasks."""

    target: Target
    folder: Any

    def plan_export(self, *collections: str, **options: Any) -> engine.ExportPlan:
        request = engine.ExportRequest(collections=collections, **options)
        plan = engine.plan_export(self.target, self.folder, request)
        again = engine.ExportPlan.of(json.loads(json.dumps(plan.as_value())))
        assert again == plan
        assert again.digest == plan.digest
        return again

    def export(self, *collections: str, run_id: str = "run 1", **options: Any) -> Any:
        plan = self.plan_export(*collections, **options)
        for part in plan.parts:
            engine.export_part(self.target, self.folder, plan, part.number, run_id=run_id, report=silent)
        return engine.finish_export(self.target, self.folder, plan, run_id=run_id)

    def plan_import(self, pattern: str | None = None, **options: Any) -> engine.ImportPlan:
        plan = engine.plan_import(self.target, self.folder, engine.ImportRequest(**options), pattern)
        again = engine.ImportPlan.of(json.loads(json.dumps(plan.as_value())))
        assert again == plan
        assert again.digest == plan.digest
        return again

    def load(self, pattern: str | None = None, *, run_id: str = "load 1", refuse: Any = None, **options: Any) -> Any:
        plan = self.plan_import(pattern, **options)
        for part in plan.parts:
            engine.import_part(self.target, self.folder, plan, part.number, run_id=run_id, report=silent, refuse=refuse)
        return self.finish(plan, run_id)

    def finish(self, plan: engine.ImportPlan, run_id: str = "load 1") -> Any:
        return engine.finish_import(self.target, plan, self.rejects(run_id), run_id=run_id)

    def rejects(self, run_id: str = "load 1") -> Any:
        return self.folder / f"rejects-{run_id.replace(' ', '-')}.jsonl"

    def rejected(self, run_id: str = "load 1") -> list[dict[str, Any]]:
        with self.rejects(run_id).open("r") as file:
            return [json.loads(line) for line in file]

    def raw(self, collection: str) -> list[bytes]:
        """The documents' bytes, sorted."""
        found = self.target.db.get_collection(collection, codec_options=RAW).find()
        return sorted(bytes(document.raw) for document in found)

    def content(self, collection: str) -> Content:
        return of_documents(self.raw(collection))

    def insert_raw(self, collection: str, documents: list[bytes]) -> None:
        coll = self.target.db.get_collection(collection, codec_options=RAW)
        for document in documents:
            coll.insert_one(RawBSONDocument(document, RAW))

    def process(self, **options: Any) -> subprocess.Popen[str]:
        seeds = self.target.client._topology_settings.seeds
        hosts = ",".join(f"{host}:{port}" for host, port in sorted(seeds))
        words = {"hosts": hosts, "database": self.target.database, "folder": str(self.folder), **options}
        command = [sys.executable, "-m", "tests.mongo.transfers", json.dumps(words)]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def element(kind: int, name: bytes, value: bytes = b"") -> bytes:
    return bytes([kind]) + name + b"\x00" + value


def document(*elements: bytes) -> bytes:
    body = b"".join(elements)
    return (len(body) + 5).to_bytes(4, "little") + body + b"\x00"


def nested(levels: int) -> bytes:
    inner = bson.encode({"end": 1})
    for _ in range(levels - 1):
        inner = document(element(3, b"n", inner))
    return inner


def peak_megabytes() -> int:
    """This process's peak. Not ``ru_maxrss``, which a process inherits from the one that started it."""
    with Path("/proc/self/status").open(encoding="utf-8") as status:
        return next(int(line.split()[1]) // 1024 for line in status if line.startswith("VmHWM"))


def main() -> int:
    options = json.loads(sys.argv[1])
    hosts, database = options["hosts"], options["database"]
    environment = Environment("development", "c", database=database, lease_ttl=options.get("lease_ttl", 60.0))
    spec = ConnectionSpec("c", f"mongodb://{hosts}/?replicaSet=rs0", hosts, database)
    folder = open_folder(options["folder"])
    pause = options.get("pause", 0.0)

    def slowly(document: bytes) -> bool:
        del document
        time.sleep(pause)
        return False

    with connect(spec, environment) as target:
        print("begun", flush=True)
        run_id = options["run_id"]
        if options["do"] == "export":
            export = engine.ExportPlan.of(options["plan"])
            for part in export.parts:
                engine.export_part(target, folder, export, part.number, run_id=run_id, report=silent)
            engine.finish_export(target, folder, export, run_id=run_id)
        else:
            plan = engine.ImportPlan.of(options["plan"])
            refuse = slowly if pause else None
            for part in plan.parts:
                engine.import_part(target, folder, plan, part.number, run_id=run_id, report=silent, refuse=refuse)
            engine.finish_import(target, plan, folder / "rejects.jsonl", run_id=run_id)
    return 0


if __name__ == "__main__":
    sys.exit(main())
