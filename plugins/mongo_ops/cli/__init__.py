"""The command line `mongo-ops`: a thin door to the same engine that Airflow uses, for a developer's machine and CI.

Exit codes: 0 done, 1 failed, 2 something to do (the plan found changes, lint found faults), 3 refused.
"""

from mongo_ops.cli.main import main

__all__ = ["main"]
