"""From results to a run: what is new, worse, the same or fixed; what is muted. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from fnmatch import fnmatchcase

from mongo_ops.health.model import Earlier, Finding, Judged, Mute, Result, Status, Transition

UNABLE = "could not look"
"""The scope of the finding that stands for a check that is UNKNOWN as a whole."""


def judge(
    results: Sequence[Result], known: Mapping[str, Earlier], mutes: Sequence[Mute], at: datetime
) -> tuple[Judged, ...]:
    """Return every problem with its place in the history, and what was fixed; the worst first.

    A check that could not look, or is switched off, says of nothing that it is fixed: its former problems wait for the next look.
    Where there is nothing to look at any more, they are.
    """
    judged = [one for result in results for one in _of(result, known.get(result.check, Earlier()), mutes, at)]
    return tuple(sorted(judged, key=lambda one: (-one.finding.status.rank, one.check, one.finding.scope)))


def _of(result: Result, before: Earlier, mutes: Sequence[Mute], at: datetime) -> Iterator[Judged]:
    if result.off:
        return
    if result.is_unable:
        since, transition = before.unable_since or at, Transition.SAME if before.unable_since else Transition.NEW
        finding = Finding(Status.UNKNOWN, result.reason, UNABLE)
        yield Judged(result.check, finding, transition, _muted(result.check, UNABLE, mutes, at), since)
        return
    for finding in result.findings:
        if not finding.status.rank:
            continue
        status, since = before.problems.get(finding.scope, (None, at))
        transition = _transition(status, finding.status)
        yield Judged(result.check, finding, transition, _muted(result.check, finding.scope, mutes, at), since)
    there = {finding.scope for finding in result.findings if finding.status.rank}
    for scope, (_, since) in before.problems.items():
        if scope not in there:
            finding = Finding(Status.OK, "It is well again.", scope)
            yield Judged(result.check, finding, Transition.FIXED, _muted(result.check, scope, mutes, at), since)
    if before.unable_since:
        again = Finding(Status.OK, "It could look again.", UNABLE)
        muted = _muted(result.check, UNABLE, mutes, at)
        yield Judged(result.check, again, Transition.FIXED, muted, before.unable_since)


def _transition(before: Status | None, now: Status) -> Transition:
    if before is None:
        return Transition.NEW
    return Transition.WORSE if now.rank > before.rank else Transition.SAME


def _muted(check: str, scope: str, mutes: Sequence[Mute], at: datetime) -> str | None:
    for mute in mutes:
        if mute.check in (check, "*") and fnmatchcase(scope, mute.scope) and at.date() <= mute.until:
            return mute.owner
    return None
