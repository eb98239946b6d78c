"""A small client of Airflow's REST API v2: trigger a run, follow it, answer its approvals."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

FINAL = frozenset({"success", "failed"})


class ApiError(Exception):
    """Airflow answered with an error; ``status`` is the HTTP status, 0 when nothing answered."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Run:
    """A DAG run's identity."""

    dag_id: str
    run_id: str

    @property
    def path(self) -> str:
        """The run's path below /api/v2."""
        return f"/dags/{self.dag_id}/dagRuns/{urllib.parse.quote(self.run_id, safe='')}"


@dataclass
class Api:
    """One user's session. The token is fetched with the first call that needs it."""

    url: str
    user: str
    password: str = field(repr=False)
    token: str | None = field(default=None, repr=False)
    timeout: float = 30.0

    def call(self, method: str, path: str, body: Any = None) -> Any:
        """Call below /api/v2 as this user; return the parsed answer.

        Raises:
            ApiError: Airflow refused, or does not answer.
        """
        if self.token is None:
            answer = self._send("POST", "/auth/token", {"username": self.user, "password": self.password})
            self.token = str(answer["access_token"])
        return self._send(method, f"/api/v2{path}", body)

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        headers = {"Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None
        if body is not None:
            data = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        request = urllib.request.Request(self.url + path, data, headers, method=method)  # noqa: S310
        try:
            with _direct.open(request, timeout=self.timeout) as response:
                return json.loads(response.read() or b"null")
        except urllib.error.HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            raise ApiError(error.code, f"{method} {path} answered {error.code}: {text}") from error
        except (OSError, http.client.HTTPException) as error:
            raise ApiError(0, f"{method} {self.url}{path} did not answer: {error}") from error

    def health(self) -> dict[str, str]:
        """Return the state of each component; empty when the API server does not answer."""
        try:
            answer = self._send("GET", "/api/v2/monitor/health")
        except ApiError:
            return {}
        return {name: str(part.get("status")) for name, part in answer.items() if isinstance(part, dict)}

    def warm_up(self) -> bool:
        """Make the API that tasks call build its routes, as the first call would (seconds); False while it is down."""
        try:
            self._send("GET", "/execution/health")
        except ApiError:
            return False
        return True

    def has_dag(self, dag_id: str, since: datetime | None = None) -> bool:
        """Tell whether Airflow has parsed this DAG (``since`` then, when what an earlier start left does not count)."""
        try:
            found = self.call("GET", f"/dags/{dag_id}")
        except ApiError as error:
            if error.status == http.client.NOT_FOUND:
                return False
            raise
        parsed = found["last_parsed_time"]
        return not found["is_stale"] and (since is None or (parsed and datetime.fromisoformat(parsed) > since))

    def import_errors(self) -> dict[str, str]:
        """Return the DAG files that do not import, each with its traceback."""
        found = self.call("GET", "/importErrors")["import_errors"]
        return {error["filename"]: error["stack_trace"] for error in found}

    def trigger(self, dag_id: str, conf: dict[str, Any] | None = None, note: str | None = None) -> Run:
        """Start a run."""
        answer = self.call("POST", f"/dags/{dag_id}/dagRuns", {"logical_date": None, "conf": conf or {}, "note": note})
        return Run(dag_id, str(answer["dag_run_id"]))

    def state(self, run: Run) -> str:
        """Return the run's state."""
        return str(self.call("GET", run.path)["state"])

    def wait(self, run: Run, timeout: float = 120.0, pause: float = 0.2) -> str:
        """Wait for the run's end and return its state.

        Raises:
            TimeoutError: it did not end in time; the message has every task's state.
        """
        deadline = time.monotonic() + timeout
        while (state := self.state(run)) not in FINAL:
            if time.monotonic() > deadline:
                tasks = {task["task_id"]: task["state"] for task in self.task_instances(run)}
                raise TimeoutError(f"{run.dag_id} is still {state} after {timeout:.0f} s: {tasks}")
            time.sleep(pause)
        return state

    def task_instances(self, run: Run) -> list[dict[str, Any]]:
        """Return the run's task instances as Airflow gives them (task_id, state, try_number, start_date, ...)."""
        return list(self.call("GET", f"{run.path}/taskInstances?limit=1000")["task_instances"])

    def task(self, run: Run, task_id: str) -> dict[str, Any]:
        """Return one task instance."""
        return dict(self.call("GET", f"{run.path}/taskInstances/{task_id}"))

    def logs(self, run: Run, task_id: str, try_number: int = 1, map_index: int = -1) -> str:
        """Return a task's log as text."""
        path = f"{run.path}/taskInstances/{task_id}/logs/{try_number}?full_content=true&map_index={map_index}"
        content = self.call("GET", path)["content"]
        return "\n".join(line["event"] if isinstance(line, dict) else str(line) for line in content)

    def xcom(self, run: Run, task_id: str, key: str = "return_value") -> Any:
        """Return a value that a task left."""
        return self.call("GET", f"{run.path}/taskInstances/{task_id}/xcomEntries/{key}?deserialize=true")["value"]

    def approvals(self, run: Run) -> list[dict[str, Any]]:
        """Return the run's requests for a person's answer."""
        return list(self.call("GET", f"{run.path}/hitlDetails")["hitl_details"])

    def answer(self, run: Run, task_id: str, option: str, params: dict[str, Any] | None = None) -> None:
        """Answer a waiting approval task (``Approve`` or ``Reject``) as this user."""
        body = {"chosen_options": [option], "params_input": params or {}}
        self.call("PATCH", f"{run.path}/taskInstances/{task_id}/-1/hitlDetails", body)

    def clear(self, run: Run, task_ids: list[str]) -> None:
        """Clear tasks, so that Airflow runs them again."""
        body = {"dry_run": False, "dag_run_id": run.run_id, "task_ids": task_ids, "only_failed": False}
        self.call("POST", f"/dags/{run.dag_id}/clearTaskInstances", body)


_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
