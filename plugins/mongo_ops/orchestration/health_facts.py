"""What migrations and erasure know, for the health checks: features do not import each other. Imports no Airflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from mongo_ops.audit.log import AUDIT_LOG, INDEX
from mongo_ops.erasure import coverage, periods
from mongo_ops.erasure.map_file import load_map
from mongo_ops.erasure.selectors import conditions
from mongo_ops.health.sight import Deviation, Outside, Overdue, Waived
from mongo_ops.migrations import engine
from mongo_ops.migrations.expected import Shape, expected
from mongo_ops.migrations.operations import catalogue
from mongo_ops.migrations.operations.catalogue import Difference
from mongo_ops.migrations.verify import VALIDATOR_OPTIONS
from mongo_ops.settings import include_folder

if TYPE_CHECKING:
    from mongo_ops.erasure.model import DataMap
    from mongo_ops.health.snapshot import Snapshot
    from mongo_ops.mongo.connection import Target

DATA_MAP = "data_map.yaml"
SHOWN_LINES = 60


def outside(target: Target) -> Outside:
    """Return what the files of this project say, as callables that look when a check asks."""
    drift = (lambda snapshot: deviations(target, snapshot)) if (include_folder() / "migrations").is_dir() else None
    if not (include_folder() / DATA_MAP).is_file():
        return Outside(drift=drift)
    return Outside(
        drift=drift,
        coverage=lambda: [
            (one.where, one.sentence) for one in coverage.coverage(target.db, load_map()) if one.kind != "waiver"
        ],
        waivers=lambda: [Waived(one.path, date.fromisoformat(one.until), one.owner) for one in load_map().waivers],
        retention=lambda: list(_overdue(target, load_map())),
    )


def deviations(target: Target, snapshot: Snapshot) -> Sequence[Deviation]:
    """Compare the snapshot's catalogue with what the applied migrations say; no command per collection."""
    facts = engine.survey(target, include_folder())
    there = {str(one["name"]): one for one in snapshot.need("catalogue")}
    found: list[Deviation] = []
    for name, shape in sorted(expected(facts.files, facts.records).items()):
        if name not in there:
            found.append(Deviation("missing", name, f"The collection {name}"))
        else:
            found += _collection(target, name, shape, _options(there, name))
            found += _indexes(target, name, shape, there[name].get("md", {}).get("indexes", ()))
    return found


def _options(there: Mapping[str, Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """Return options as ``listCollections`` would: a view's are beside ``md``, a time series' with its buckets."""
    listed = there[name]
    if listed["type"] == "view":
        return {key: listed[key] for key in ("viewOn", "pipeline", "collation") if key in listed}
    if listed["type"] == "timeseries":
        options = there.get(str(listed.get("viewOn")), {}).get("md", {}).get("options", {})
        return {key: options[key] for key in ("timeseries", "expireAfterSeconds", "collation") if key in options}
    return {key: value for key, value in listed["md"]["options"].items() if key != "uuid"}


def _collection(target: Target, name: str, shape: Shape, options: Mapping[str, Any]) -> Iterator[Deviation]:
    wanted, actual = dict(shape.options), dict(options)
    if shape.created:
        wanted["collation"] = catalogue.full_collation(target.db, wanted.get("collation"))
    else:
        actual = {key: actual[key] for key in VALIDATOR_OPTIONS if key in actual}
        wanted = wanted or actual
    found = list(catalogue.differences(catalogue.options_form(wanted), catalogue.options_form(actual)))
    if found:
        yield Deviation("changed", name, f"The collection {name}", as_diff(found))


def _indexes(target: Target, name: str, shape: Shape, listed: Sequence[Mapping[str, Any]]) -> Iterator[Deviation]:
    there = {one["spec"]["name"]: one for one in listed}
    for index, spec in shape.indexes.items():
        subject, scope = f"The index {index} of {name}", f"{name}.{index}"
        if index not in there or not there[index].get("ready", True):
            yield Deviation("missing", scope, subject)
            continue
        collation = spec.get("collation") or shape.options.get("collation")
        wanted = {**spec, "collation": catalogue.full_collation(target.db, collation)}
        found = list(catalogue.differences(catalogue.index_form(wanted), catalogue.index_form(there[index]["spec"])))
        if found:
            yield Deviation("changed", scope, subject, as_diff(found))
    ours = {"_id_", *((INDEX,) if name == AUDIT_LOG else ()), *shape.indexes}
    for index in sorted(set(there) - ours) if shape.created else ():
        yield Deviation("extra", f"{name}.{index}", f"The index {index} of {name}")


def as_diff(found: Sequence[Difference]) -> tuple[str, ...]:
    """Return differences as lines: ``- path: wanted``, ``+ path: is``."""
    lines: list[str] = []
    for one in found:
        lines += [f"- {one.path}: {one.wanted}"] if one.wanted is not None else []
        lines += [f"+ {one.path}: {one.actual}"] if one.actual is not None else []
    return tuple(lines[:SHOWN_LINES])


def _overdue(target: Target, data_map: DataMap) -> Iterator[Overdue]:
    """Count what each retention rule should have removed a day ago; the rules run nightly."""
    now = datetime.now(UTC)
    for entry in data_map.collections.values():
        for rule in entry.retention:
            end = periods.before(now, f"{rule.period}")
            late = {rule.start: {"$lt": periods.before(end, "P2D")}}
            query = {"$and": [conditions(rule.where), late]} if rule.where else late
            yield Overdue(rule.id, target.db[rule.collection].count_documents(query, limit=100_000), rule.why)
