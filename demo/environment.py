"""What Airflow is told through its environment: pure, one function, every setting with its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from demo.processes import MARKER

ROOT = Path(__file__).resolve().parent.parent
DATABASES = {
    "development": "spotify_ai_agent",
    "staging": "spotify_ai_agent_staging",
    "production": "spotify_ai_agent_production",
}
"""Three environments, and in the demo one embedded server carries all three databases."""

USERS = {"admin": "admin", "olivia": "op"}
"""SimpleAuthManager: olivia operates and approves what somebody else triggered."""


@dataclass(frozen=True)
class Secrets:
    """Generated once per stack and kept, mode 0600, in its run folder."""

    jwt: str
    session: str
    fernet: str


def mongo_connection(port: int, database: str) -> str:
    """Return the Airflow connection to the embedded server as JSON (a URI loses types: see Airflow's Mongo provider)."""
    extra = {"replicaSet": "rs0", "serverSelectionTimeoutMS": 3000}
    return json.dumps(
        {"conn_type": "mongo", "host": "127.0.0.1", "port": port, "schema": database, "extra": extra},
    )


def airflow_environment(
    inherited: Mapping[str, str],
    run: Path,
    airflow_port: int,
    mongo_port: int | None,
    secrets: Secrets,
    variables: Mapping[str, str],
) -> dict[str, str]:
    """Return the whole environment of the stack's processes; ``inherited`` AIRFLOW settings are left out.

    ``variables`` are Airflow variables, given as ``AIRFLOW_VAR_...``: the erasure's keys.
    """
    kept = {key: value for key, value in inherited.items() if not key.startswith(("AIRFLOW", "_AIRFLOW"))}
    kept.pop("PYTHONDONTWRITEBYTECODE", None)  # it would triple every start
    url = f"http://127.0.0.1:{airflow_port}"
    lineage = {"type": "file", "log_file_path": str(run / "lineage.ndjson"), "append": True}
    ours = {
        MARKER: str(run),
        "SPT_NOENV": "1",  # a process that sets its title must not overwrite the marker
        "NO_PROXY": "127.0.0.1,localhost",
        "AIRFLOW_HOME": str(run / "airflow"),
        "MONGO_OPS_INCLUDE": str(ROOT / "include"),
        "MONGO_OPS_STORAGE": (run / "storage").as_uri(),
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(airflow_port),
        "AIRFLOW__API__BASE_URL": f"http://localhost:{airflow_port}",
        "AIRFLOW__API__SECRET_KEY": secrets.session,
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.jwt,
        "AIRFLOW__CORE__FERNET_KEY": secrets.fernet,
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": ",".join(f"{name}:{role}" for name, role in USERS.items()),
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(run / "passwords.json"),
        "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
        "AIRFLOW__DATABASE__CHECK_MIGRATIONS": "False",  # the launcher has just done it
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "mongo-ops",
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(lineage),
        "AIRFLOW__OPENLINEAGE__EXECUTE_IN_THREAD": "True",  # a fork would hold the task's sockets and its slot for 5 s
        "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
        # Speed on two cores.
        "AIRFLOW__CORE__PARALLELISM": "6",  # 32 idle workers otherwise
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",  # a supervisor may notice its task's end this late (5 s)
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",  # the largest win: 0.3 s instead of 1.1 s per task
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "10",  # a new file is seen after 10 s, not 300 s
        "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "30",  # an edited file is parsed at once all the same
        "AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT": "30",  # the first call to a cold API server takes seconds
    }
    if mongo_port is not None:
        for name, database in DATABASES.items():
            ours[f"AIRFLOW_CONN_MONGO_{name.upper()}"] = mongo_connection(mongo_port, database)
    ours |= {f"AIRFLOW_VAR_{name.upper()}": value for name, value in variables.items()}
    return {**kept, **ours}
