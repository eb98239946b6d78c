"""Ten thousand people in one run: bounded memory, a certificate for each, and nobody's hold or fault is anybody else's."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from tests.mongo.erasure_people import database
from tests.mongo.runner import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
PEOPLE = 10_000
MEGABYTES = 350
"""What their identifiers and patterns take: 25 kB were measured for each person; and nothing for each of their documents."""


def test_ten_thousand_people_in_one_run(replica_set, tmp_path):
    with database(replica_set, tmp_path) as target:
        host, port = target.client.address
        job = {"uri": replica_set.uri, "address": f"{host}:{port}", "database": target.database}
        job |= {"storage": target.environment.storage, "people": PEOPLE}
        command = [sys.executable, "-m", "tests.mongo.erasure_crowd", json.dumps(job)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=800, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    crowd = json.loads(done.stdout)
    print({name: crowd[name] for name in ("seconds", "before", "peak")})  # shown when the test fails

    assert crowd["states"] == {
        "completed_with_retention": PEOPLE // 2 - 1,
        "completed": PEOPLE // 2 - 2,
        "partial": 1,
    }
    assert crowd["state_of"] == ["not_found", "received", "partial"]
    assert crowd["certificates"] == PEOPLE - 3
    assert crowd["left"] == {"users": PEOPLE + 2, "analytics": PEOPLE + 1}
    assert crowd["theirs"] == crowd["added_by"] == 1  # the one who is held
    unindexed = {rule.partition(".")[0] for rule, (_, indexed) in crowd["counts"].items() if not indexed}
    assert unindexed == {"playlists", "versioning", "audit_log"}
    assert all(crowd["walks"][f"find.{name}"] < 5 * PEOPLE / 1_000 for name in unindexed)  # walked, not asked for each
    assert crowd["peak"] - crowd["before"] < MEGABYTES
