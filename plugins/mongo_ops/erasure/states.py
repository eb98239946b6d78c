"""From which states a request may go to which. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from mongo_ops.erasure.model import State

WAYS: Mapping[State, frozenset[State]] = {
    State.RECEIVED: frozenset({State.PLANNED, State.HELD, State.NOT_FOUND, State.REFUSED, State.FAILED}),
    State.PLANNED: frozenset(
        {State.PLANNED, State.APPROVED, State.HELD, State.NOT_FOUND, State.REFUSED, State.PARTIAL, State.FAILED}
    ),
    State.APPROVED: frozenset({State.PLANNED, State.EXECUTING, State.HELD, State.PARTIAL, State.FAILED}),
    State.EXECUTING: frozenset({State.VERIFYING, State.HELD, State.PARTIAL, State.FAILED}),
    State.VERIFYING: frozenset(
        {
            State.EXECUTING,  # the second sweep found late writers
            State.COMPLETED,
            State.COMPLETED_WITH_RETENTION,
            State.HELD,
            State.PARTIAL,
            State.FAILED,
        }
    ),
    State.COMPLETED: frozenset({State.RECEIVED, State.CLOSED}),
    State.COMPLETED_WITH_RETENTION: frozenset({State.RECEIVED, State.CLOSED}),
    State.HELD: frozenset({State.RECEIVED, State.PLANNED, State.REFUSED}),
    State.PARTIAL: frozenset({State.PLANNED, State.EXECUTING, State.HELD, State.FAILED}),
    State.FAILED: frozenset({State.PLANNED, State.EXECUTING, State.HELD, State.PARTIAL, State.REFUSED}),
    State.NOT_FOUND: frozenset({State.CLOSED}),
    State.REFUSED: frozenset({State.RECEIVED, State.CLOSED}),
    State.CLOSED: frozenset({State.RECEIVED}),  # a backup brought the person back
}
"""Back to ``RECEIVED`` is a re-opening: a hold was released, a retention lapsed, something came back, a refusal was overturned."""


def origins(to: State) -> frozenset[State]:
    """Return the states from which a request may go to ``to``."""
    return frozenset(state for state, ways in WAYS.items() if to in ways)
