"""The command `mongo-ops partition`: its arguments, and the engine behind them, phase by phase in one process."""

from __future__ import annotations

import argparse
import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mongo_ops.cli.arguments import Parsers
    from mongo_ops.erasure.engine import Engine
    from mongo_ops.mongo.connection import Target
    from mongo_ops.partitions.work import Work

COMMANDS = {"partition": "mongo_ops.cli.partition:partition"}
STRATEGIES = ("by_time", "archive", "restore", "sharding", "time_series")
SOMETHING_TO_DO = 2
SAME_NAMES = ("collection", "strategy", "key", "months_ahead", "keep_months", "move", "view", "balancer_window", "meta_field",
              "granularity", "source", "into")  # fmt: skip


def add_commands(parsers: Parsers) -> None:
    """Add the command."""
    about = "split a collection into months, shards, or hot and archived documents"
    partition = parsers.add_parser("partition", help=about, description=about.capitalize() + ".")
    partition.add_argument("collection", help="which collection")
    partition.add_argument("--env", required=True, metavar="NAME", help="environment, as in include/environments.yaml")
    partition.add_argument("--strategy", required=True, choices=STRATEGIES)
    partition.add_argument("--key", default="", help="the date field; for sharding: country, user_id:hashed")
    partition.add_argument("--months-ahead", type=int, default=2, metavar="N", help="by_time: months made in advance")
    partition.add_argument("--keep-months", type=int, metavar="N", help="full months that stay beside the current one")
    partition.add_argument("--move", action="store_true", help="by_time: move closed months out of the collection")
    partition.add_argument("--no-archive", action="store_true", help="by_time: drop months WITHOUT an archive")
    partition.add_argument("--view", metavar="NAME", help="by_time: the readers' view (default COLLECTION_all)")
    partition.add_argument(
        "--destination", metavar="URI", help="where archives go (default: the environment's storage)"
    )
    partition.add_argument("--source", metavar="URI", help="restore: the archive's folder")
    partition.add_argument("--into", metavar="NAME", help="restore: another collection than the one it came from")
    partition.add_argument("--storage-connection", metavar="ID", help="AIRFLOW_CONN_<ID> with the store's credentials")
    partition.add_argument("--zone", action="append", default=[], metavar="JSON", help="sharding: a zone; repeat it")
    partition.add_argument("--balancer-window", metavar="HH:MM-HH:MM", help="sharding: when chunks may move")
    partition.add_argument("--meta-field", metavar="NAME", help="time_series: what tells series apart")
    partition.add_argument("--granularity", default="seconds", choices=("seconds", "minutes", "hours"))
    partition.add_argument("--dry-run", action="store_true", help="show the plan and write nothing")
    partition.add_argument("--approved", metavar="DIGEST", help="the plan's digest; needed where it is protected")
    partition.add_argument("--resume", metavar="RUN", help="go on with a run that was stopped or killed")
    partition.add_argument("--reason", help="for the audit log; name no person")
    partition.add_argument("--json", action="store_true", help="for machines")


def partition(arguments: argparse.Namespace) -> int:
    """Plan and carry out; exit code 2 when a dry run found something to do, 3 when the plan may not be carried out."""
    from mongo_ops.cli import support  # noqa: PLC0415 - the arguments must load quickly
    from mongo_ops.cli.output import show  # noqa: PLC0415
    from mongo_ops.partitions import engine, keeping, report  # noqa: PLC0415
    from mongo_ops.partitions.model import Phase  # noqa: PLC0415

    run_id = str(arguments.resume or f"cli {uuid.uuid4().hex[:12]}")
    with _open_work(arguments, run_id, read_only=True) as work:
        plan = keeping.kept(work, arguments.collection) if arguments.resume else engine.plan(work, _request(arguments))
    if arguments.dry_run:
        show(arguments, plan.as_value(), report.plan_as_text(plan))
        return SOMETHING_TO_DO if plan.steps or plan.blockers else 0
    engine.insist_on_possible(plan)
    done: dict[str, Mapping[str, int]] = {}
    if plan.steps:
        with _open_work(arguments, run_id) as work:
            look = f"partition {plan.request.collection} --env {arguments.env} ... --dry-run"
            support.insist_on_digest(work.target.environment, plan.digest, arguments.approved, look)
            keeping.keep(work, plan)
            print(f"Run {run_id}. Should it be stopped, go on with --resume '{run_id}'", file=sys.stderr)
            done = {str(phase): engine.carry_out(work, plan, phase) for phase in Phase if plan.of_phase(phase)}
            keeping.forget(work)
    show(arguments, {"run_id": run_id, "digest": plan.digest, "done": done}, report.done_as_text(done))
    return 0


def _request(arguments: argparse.Namespace) -> Any:
    from mongo_ops.errors import PlanError  # noqa: PLC0415
    from mongo_ops.partitions.model import PartitionRequest  # noqa: PLC0415

    try:
        zones = [json.loads(text) for text in arguments.zone]
    except ValueError:
        raise PlanError("--zone takes a JSON object.") from None
    value = {name: getattr(arguments, name) for name in SAME_NAMES}
    return PartitionRequest.of({**value, "archive": not arguments.no_archive, "zones": zones})


@contextmanager
def _open_work(arguments: argparse.Namespace, run_id: str, *, read_only: bool = False) -> Iterator[Work]:
    """Yield what a run holds in its hands; with ``read_only`` every write is refused on the wire."""
    from mongo_ops.cli import people, support  # noqa: PLC0415
    from mongo_ops.mongo.connection import connect  # noqa: PLC0415
    from mongo_ops.partitions.cluster import PlanGuard  # noqa: PLC0415
    from mongo_ops.partitions.work import Work  # noqa: PLC0415
    from mongo_ops.settings import load_environment  # noqa: PLC0415
    from mongo_ops.storage import open_folder  # noqa: PLC0415

    environment = load_environment(arguments.env)
    occasion = replace(support.occasion(reason=arguments.reason), run_id=run_id)
    place = arguments.source if arguments.strategy == "restore" else arguments.destination
    if place:
        uri = place if "://" in place else Path(place).resolve().as_uri()
        folder = open_folder(uri, connection=arguments.storage_connection)
    else:
        folder = open_folder(environment.storage, connection=environment.storage_connection) / "partitions"
    listeners = (PlanGuard(),) if read_only else ()
    with connect(support.connection_spec(environment), environment, listeners=listeners) as target:
        yield Work(
            target=target, folder=folder, occasion=occasion, holder=support.holder(occasion), erasure=_erasure(target, run_id),
            refusal=partial(people.refusal, target),
        )  # fmt: skip


def _erasure(target: Target, run_id: str) -> Engine | None:
    """Return erasure on the environment, which knows whose documents are held; None where there is no data map."""
    from mongo_ops.cli import people, support  # noqa: PLC0415
    from mongo_ops.erasure.engine import Engine  # noqa: PLC0415
    from mongo_ops.erasure.map_file import load_map  # noqa: PLC0415
    from mongo_ops.settings import include_folder  # noqa: PLC0415
    from mongo_ops.storage import open_folder  # noqa: PLC0415

    if not (include_folder() / "data_map.yaml").is_file():
        return None
    at, occasion = target.environment, replace(support.occasion(), run_id=run_id)
    return Engine(
        target=target, data_map=load_map(), keyring=people.keyring(), folder=open_folder(at.storage, connection=at.storage_connection),
        holder=support.holder(occasion), actor=occasion.actor,
        assets=open_folder(at.assets, connection=at.assets_connection) if at.assets else None,
    )  # fmt: skip
