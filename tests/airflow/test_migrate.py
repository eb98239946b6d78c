def test_try(scheduler):
    import time
    for env in ("development","development"):
        t=time.time(); e=scheduler.migrate(env); print(time.time()-t, e.state, e.states)
    t=time.time(); e=scheduler.migrate("trial", plan_only=True); print(time.time()-t, e.state, e.states)
    import json
    for ev in scheduler.lineage(e.run)[:0]: print(json.dumps(ev)[:1500])
    print(scheduler.api.xcom(e.run,"plan")["markdown"])
