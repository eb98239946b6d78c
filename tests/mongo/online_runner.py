"""An online migration in a process of its own: ``python -m tests.mongo.online_runner '{"uri": ..., "name": ..., "action": "run"}'``.

Prints JSON lines: ``opened``, a ``slice`` for each, ``stopped`` when it has frozen itself at the step ``stop_at`` (the ``stop_after``-th time),
``result``, ``error``. Actions: run (to ready), advance (one slice), cut_over, rollback, contract, abort.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.mongo.runner import tell

from mongo_ops.errors import MongoOpsError
from mongo_ops.migrations.history import Actor, Occasion
from mongo_ops.mongo.connection import ConnectionSpec, connect
from mongo_ops.mongo.lease import Holder
from mongo_ops.online import discover, steps
from mongo_ops.online.engine import Engine
from mongo_ops.online.model import Phase
from mongo_ops.settings import Environment

WAITING = (Phase.READY, Phase.SOAK)


def freeze_at(step: str, times: int) -> None:
    """Freeze this process when it has reached that step for the given time."""
    assert step in steps.STEPS, step
    seen = 0

    def reached(name: str) -> None:
        nonlocal seen
        if name == step:
            seen += 1
            if seen == times:
                tell(event="stopped", step=step)
                os.kill(os.getpid(), signal.SIGSTOP)

    steps.reached = reached


def act(engine: Engine, options: dict[str, Any]) -> Any:
    action, budget = options["action"], options.get("budget", 1.0)
    if action == "run":
        engine.start(parts=options.get("parts", 1))
        while True:
            result = engine.advance(budget=budget)
            tell(event="slice", **result.as_dict())
            if result.next in WAITING and result.phase in WAITING:
                return result.as_dict()
    if action == "advance":
        return engine.advance(budget=budget, part=options.get("part", 0)).as_dict()
    if action == "cut_over":
        return engine.cut_over(options.get("approved") or engine.verification().digest).as_dict()
    if action == "rollback":
        return engine.rollback().as_dict()
    if action == "contract":
        return engine.contract(early=options.get("early", False), budget=budget).as_dict()
    return engine.abort("a test", budget=budget).as_dict()


def work(options: dict[str, Any]) -> None:
    rules = {"lease_ttl": options["lease_ttl"]} if "lease_ttl" in options else {}
    environment = Environment("development", "c", database=options["database"], **rules)
    occasion = Occasion(Actor("me", "os"), options.get("run_id", "run 1"))
    with connect(ConnectionSpec("c", options["uri"], options["hosts"]), environment) as target:
        file = discover.find(Path(options["include"]), options["name"])
        engine = Engine(target, file, occasion, Holder(options["owner"]), keep_lease=options.get("keep_lease", False))
        tell(event="opened")
        tell(event="result", **act(engine, options))


def main() -> int:
    options = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if options.get("stop_at"):
        freeze_at(options["stop_at"], options.get("stop_after", 1))
    try:
        work(options)
    except MongoOpsError as error:
        tell(event="error", type=type(error).__name__, message=str(error))
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
