"""kill -9 at random moments, twenty-five times in each direction: the result is as if nothing had happened."""

from __future__ import annotations

import random
import time

import pytest
from tests.mongo.transfers import Transfers, silent

from mongo_ops import audit, storage
from mongo_ops.mongo.batches import CHECKPOINTS
from mongo_ops.transfer import engine, manifest

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]
COUNT, KILLS = 30_000, 25


@pytest.fixture(scope="module", autouse=True)
def _open_transactions_end_soon(replica_set):
    with replica_set.nodes[0].direct_client() as client:
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 1})
        yield
        client.admin.command({"setParameter": 1, "transactionLifetimeLimitSeconds": 5})


@pytest.fixture
def transfers(target, tmp_path):
    return Transfers(target, storage.open_folder((tmp_path / "out").as_uri()))


@pytest.fixture
def dice():
    seed = random.randrange(2**32)
    print(f"seed {seed}")  # shown when the test fails
    return random.Random(seed)


def fill(transfers, dice):
    pads = [dice.randbytes(700) for _ in range(50)]
    for start in range(0, COUNT, 5_000):
        rows = [{"n": start + i, "pad": dice.choice(pads)} for i in range(5_000)]
        transfers.target.db.c.insert_many(rows)


def killed_until_done(start, dice, longest):
    """Start the process again and again, killing it at a random moment; then let it end. Return how many were alive."""
    killed = 0
    for _ in range(KILLS):
        with start() as process:
            assert process.stdout.readline() == "begun\n", process.stderr.read()
            time.sleep(dice.uniform(0, longest))
            killed += process.poll() is None
            process.kill()
    with start() as process:
        _, log = process.communicate(timeout=300)
    assert process.returncode == 0, log
    return killed


def test_an_export_killed_25_times_is_the_undisturbed_one(transfers, dice, tmp_path):
    fill(transfers, dice)
    undisturbed = Transfers(transfers.target, storage.open_folder((tmp_path / "undisturbed").as_uri()))
    made = transfers.plan_export("c", partitions=6)
    for part in made.parts:
        engine.export_part(
            undisturbed.target, undisturbed.folder, made, part.number, run_id="undisturbed", report=silent
        )
    first = engine.finish_export(undisturbed.target, undisturbed.folder, made, run_id="undisturbed")
    plan = made.as_value()

    killed = killed_until_done(lambda: transfers.process(do="export", plan=plan, run_id="run 1"), dice, 0.12)

    found = manifest.read(transfers.folder)
    assert found.collection("c").content == first.collection("c").content
    assert [part.sha256 for part in found.collection("c").parts] == [
        part.sha256 for part in first.collection("c").parts
    ]
    assert engine.verify_export(transfers.folder).ok
    assert killed >= 5
    left = {path.rpartition("/")[2] for path in transfers.folder.fs.find(transfers.folder.path)}
    assert {name for name in left if not name.endswith(".partial")} == {
        "manifest.json",
        *(part.file.rpartition("/")[2] for part in found.collection("c").parts),
    }


def test_an_import_killed_25_times_has_every_row_once_without_a_natural_key(transfers, dice):
    fill(transfers, dice)
    found = transfers.export("c", format="jsonl.zst", projection={"_id": 0}, partitions=2)
    assert found.total.count == COUNT
    transfers.target.db.c.drop()
    plan = transfers.plan_import().as_value()

    def start():
        return transfers.process(do="import", plan=plan, run_id="load 1", pause=0.00002)

    killed = killed_until_done(start, dice, 0.6)

    rows = transfers.target.db.c.aggregate(
        [{"$group": {"_id": "$n", "times": {"$sum": 1}}}, {"$group": {"_id": "$times", "n": {"$sum": 1}}}]
    )
    assert list(rows) == [{"_id": 1, "n": COUNT}]
    assert killed >= 15
    assert transfers.target.db[CHECKPOINTS].count_documents({}) == 0
    noted = transfers.target.db.ops_transfers.find_one({"kind": "import"})
    assert noted["report"]["inserted"] == COUNT
    assert audit.verify(transfers.target.db).ok


def test_a_million_small_documents_take_no_more_memory_than_a_few(transfers):
    """The process tells its own peak; benchmarks/transfer.py takes any number of documents."""
    import subprocess
    import sys
    import textwrap

    db = transfers.target.db
    spread = [
        {"$project": {"i": {"$range": [0, 1_000_000]}}},
        {"$unwind": "$i"},
        {"$project": {"_id": "$i", "n": "$i"}},
    ]
    db.aggregate([{"$documents": [{}]}, *spread, {"$out": "c"}])
    plan = transfers.plan_export("c").as_value()
    process = transfers.process(do="export", plan=plan, run_id="run 1")
    process.kill()
    process.communicate()
    code = textwrap.dedent(
        """
        import sys
        from tests.mongo import transfers
        transfers.main()
        print(transfers.peak_megabytes())
        """
    )
    done = subprocess.run([sys.executable, "-c", code, process.args[-1]], capture_output=True, text=True, check=True)
    assert manifest.read(transfers.folder).total.count == 1_000_000
    assert int(done.stdout.split()[-1]) < 300
