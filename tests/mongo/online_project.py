"""Online migrations as the tests use them: in the test's own process, or as a process of its own that can be killed."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.mongo.runner import ROOT, Process

from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.mongo.connection import Target
from mongo_ops.mongo.lease import Holder
from mongo_ops.online import discover
from mongo_ops.online.engine import Engine
from mongo_ops.online.model import Phase

DOC = "An online migration of a test, long enough to say what it does."
QUICK = "Limits(nice=0.0, chunk=200)"
SECONDS = {"transform": '[{"$set": {"seconds": {"$divide": ["$ms", 1000]}}}]', "fields": '("seconds",)'}
GHOST = {
    "mode": '"ghost"',
    "transform": '[{"$set": {"seconds": {"$divide": ["$ms", 1000]}}}, {"$unset": "ms"}]',
    "inverse": '[{"$set": {"ms": {"$multiply": ["$seconds", 1000]}}}, {"$unset": "seconds"}]',
}


def spec(collection: str = "tracks", *, before: str = "", **words: str) -> str:
    """The text of a spec file; each further argument is source."""
    words = {"limits": QUICK, **words}
    further = "".join(f"    {name}={value},\n" for name, value in words.items())
    head = f'"""{DOC}"""\nfrom mongo_ops.online import *\n\n{textwrap.dedent(before)}\n'
    return f'{head}migration = OnlineMigration(\n    collection="{collection}",\n{further})\n'


@dataclass
class Project:
    """A folder of spec files and the database that they run on."""

    target: Target
    include: Path
    lines: list[str] = field(default_factory=list)

    @property
    def db(self):
        return self.target.db

    def write(self, name: str, text: str) -> None:
        folder = self.include / "online"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.py").write_text(text, encoding="utf-8")

    def engine(self, name: str, owner: str = "tester", **options: Any) -> Engine:
        occasion = Occasion(Actor("me", "os"), f"run of {owner}")
        file = discover.find(self.include, name)
        return Engine(self.target, file, occasion, Holder(owner), report=self.lines.append, **options)

    def state(self, name: str) -> dict[str, Any]:
        return self.db["ops_online"].find_one({"_id": name})

    def to_phase(self, engine: Engine, phase: Phase, budget: float = 5.0, rounds: int = 200) -> None:
        """Start it if need be and go on, slice by slice, until it is in that phase."""
        if self.state(engine.file.name) is None or self.state(engine.file.name)["phase"] in ("aborted", "rolled_back"):
            engine.start()
        for _ in range(rounds):
            if self.state(engine.file.name)["phase"] == phase:
                return
            engine.advance(budget=budget)
        raise AssertionError(f"{engine.file.name} did not come to {phase}: {self.lines[-5:]}")

    def to_ready(self, name: str, **options: Any) -> Engine:
        engine = self.engine(name, **options)
        self.to_phase(engine, Phase.READY)
        return engine

    def cut_over(self, engine: Engine):
        return engine.cut_over(engine.verification().digest)

    def process(self, **options: Any) -> OnlineProcess:
        """Start the runner on this project as a process of its own."""
        seeds = self.target.client._topology_settings.seeds
        hosts = ",".join(f"{host}:{port}" for host, port in sorted(seeds))
        words = {"uri": f"mongodb://{hosts}/?replicaSet=rs0", "hosts": hosts, "database": self.target.database}
        words |= {"include": str(self.include), "owner": "tester", "lease_ttl": self.target.environment.lease_ttl}
        return OnlineProcess(words | options)


@dataclass
class OnlineProcess(Process):
    """A runner of an online migration."""

    def __post_init__(self) -> None:
        command = [sys.executable, "-m", "tests.mongo.online_runner", json.dumps(self.options)]
        self.popen = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
