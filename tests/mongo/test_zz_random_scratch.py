"""Random SIGKILLs of by_time move+retire with month writers; ledger compare."""
import sys; sys.path.insert(0,'/work/main')
import random, threading, time, os, signal
from datetime import timedelta
import pytest
from tests.mongo.partition_runner import *
from tests.mongo import partition_runner
@pytest.mark.parametrize("seed", range(8))
def test_random(replica_set, target, tmp_path, seed):
    rnd=random.Random(seed)
    p=Partitions(target,(tmp_path/"archive").as_uri()); fill(p.db,400)
    plan=p.plan(Strategy.BY_TIME, move=True, keep_months=2)
    job=Job(replica_set.uri,p.target.database,p.folder,plan.as_value())
    # create first so writers have months
    p.run(Strategy.BY_TIME, run="run 0", months_ahead=2)
    plan=p.plan(Strategy.BY_TIME, move=True, keep_months=2)
    job=Job(replica_set.uri,p.target.database,p.folder,plan.as_value())
    ledger={i:None for i in range(400)}; over=threading.Event()
    def write():
        n=1000
        r=random.Random(seed+100)
        while not over.is_set():
            n+=1
            p.db.events_2026_11.insert_one({"_id":n,"at":NOW,"n":n}); ledger[n]=0
            if n%3==0: p.db.events_2026_11.update_one({"_id":n},{"$set":{"v":n}}); ledger[n]=n
            if n%7==0: p.db.events_2026_11.delete_one({"_id":n}); del ledger[n]
            # source update of a hot doc that stays (current month) 
            time.sleep(0.002)
    t=threading.Thread(target=write); t.start()
    kills=0
    try:
        for attempt in range(60):
            c=CONTEXT.Process(target=go_on,args=(job,None),daemon=True); c.start()
            if attempt<12:
                c.join(rnd.uniform(0.05,0.9))
                if c.is_alive(): os.kill(c.pid,signal.SIGKILL); kills+=1
            c.join(60)
            if c.exitcode==0: break
        assert c.exitcode==0
    finally:
        over.set(); t.join()
    from mongo_ops.transfer import engine as te
    found={}
    for d in p.db.events_all.find(): 
        assert d["_id"] not in found; found[d["_id"]]=d
    archived=sum(c.count for c in p.archives().values())
    print("SEED",seed,"kills",kills,"attempts",attempt,"archived",archived,"found",len(found),"ledger",len(ledger))
    assert archived+len(found)==len(ledger)
    for k,v in ledger.items():
        if k>=1000: assert found[k].get("v",0)==v
    assert p.db.ops_checkpoints.count_documents({})==0
    assert not [n for n in p.names() if n.endswith("_retired")]
