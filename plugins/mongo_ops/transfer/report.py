"""What a person reads of a plan, an export and an import. Pure."""

from __future__ import annotations

from mongo_ops.transfer.import_model import ImportPlan
from mongo_ops.transfer.importing import ImportReport
from mongo_ops.transfer.manifest import ManifestModel
from mongo_ops.transfer.model import ExportPlan
from mongo_ops.transfer.preview import Preview
from mongo_ops.transfer.verify import Verification


def export_plan_as_text(plan: ExportPlan) -> str:
    """Return what an export would do."""
    lines = [
        f"Export of {plan.database} ({plan.environment}) to {plan.destination} as {plan.request.format}, {plan.request.consistency}.",
        f"About {plan.count:,} documents, {size(plan.bytes)} of BSON, in {len(plan.parts):,} parts:",
    ]
    for facts in plan.collections:
        parts = sum(1 for part in plan.parts if part.collection == facts.name)
        what = f"{parts} parts, about {facts.count:,} documents, {size(facts.bytes)}" if parts else "its definition"
        lines.append(f"  {facts.name} ({facts.kind}): {what}")
    return "\n".join([*lines, *plan.notes, f"Digest {plan.digest}"])


def export_as_text(found: ManifestModel, seen: Verification | None) -> str:
    """Return what an export wrote."""
    moment = found.moment
    when = (
        f"as of {moment.as_datetime():%Y-%m-%d %H:%M:%S} UTC" if moment else "fuzzy: read while others may have written"
    )
    lines = [f"{found.total.count:,} documents in {size(found.total_file_bytes)}, {when}."]
    for collection in found.collections:
        misfits = sum(part.misfits for part in collection.parts)
        rest = f", {misfits:,} with values in the overflow column" if misfits else ""
        lines.append(f"  {collection.name}: {collection.content.count:,} documents, {collection.content.digest}{rest}")
    return "\n".join([*lines, *([str(seen)] if seen is not None else [])])


def import_plan_as_text(plan: ImportPlan, seen: Preview) -> str:
    """Return what an import would do, and what a sample of it shows."""
    count = sum(part.count or 0 for part in plan.parts)
    lines = [
        f"Import of {plan.source} into {plan.database} ({plan.environment}), mode {plan.request.mode}.",
        f"{len(plan.parts):,} files" + (f" with {count:,} documents." if count else "."),
    ]
    for one in seen:
        clashes = f", {one.present:,} of them by their key in {one.collection} already" if one.present else ""
        invalid = f", {one.invalid:,} refused by the validator" if one.invalid else ""
        rejected = f", {one.rejected:,} rows that are no documents" if one.rejected else ""
        fields = ", ".join(f"{name} ({'|'.join(types)})" for name, types in one.fields.items())
        lines.append(f"  {one.collection}: {one.rows:,} rows looked at{clashes}{invalid}{rejected}: {fields}")
    return "\n".join([*lines, *plan.notes, f"Digest {plan.digest}"])


def import_as_text(done: ImportReport) -> str:
    """Return what an import did."""
    tally = done.tally
    counts = {
        "inserted": tally.inserted, "matched": tally.matched, "modified": tally.modified, "not there to replace": tally.missing,
        "rejected": tally.rejected, "kept out as erased": tally.erased,
    }  # fmt: skip
    told = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing to import"
    lines = [f"{told}."]
    if done.verified:
        lines.append(f"Verified by content digest: {', '.join(done.verified)}.")
    if done.rejects:
        lines.append(f"The rejected rows, with their reasons: {done.rejects}")
    return "\n".join(lines)


def size(count: int) -> str:
    """Return bytes for people, e.g. ``1.2 GB``."""
    amount = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004
            return f"{amount:,.0f} {unit}" if unit == "bytes" else f"{amount:,.1f} {unit}"
        amount /= 1000
    return f"{amount:,.1f} TB"
