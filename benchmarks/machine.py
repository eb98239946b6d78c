"""What was measured on: enough to compare two tables, nothing that names the machine's owner or its network."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import subprocess
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mongo_ops.embedded.server import find_mongod


@dataclass(frozen=True)
class Machine:
    """The machine at the beginning of a run."""

    date: str
    cpu: str
    cores: int
    memory_gb: float
    load_average: tuple[float, float, float]
    system: str
    python: str
    pymongo: str
    airflow: str
    mongod: str

    @classmethod
    def here(cls) -> Machine:
        """Look."""
        return cls(
            date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            cpu=_first(r"model name\s*:\s*(.+)", "/proc/cpuinfo") or platform.machine(),
            cores=len(os.sched_getaffinity(0)),
            memory_gb=round(int(_first(r"MemTotal:\s*(\d+)", "/proc/meminfo") or 0) / 2**20, 1),
            load_average=os.getloadavg(),
            system=f"{platform.system()} {platform.release().split('-')[0]}",
            python=platform.python_version(),
            pymongo=importlib.metadata.version("pymongo"),
            airflow=importlib.metadata.version("apache-airflow"),
            mongod=_mongod_version(),
        )

    def as_value(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)

    def text(self) -> str:
        """Return one paragraph."""
        load = ", ".join(f"{one:.1f}" for one in self.load_average)
        return (
            f"{self.date}. {self.cpu}, {self.cores} cores, {self.memory_gb} GB, {self.system}; load average at the start {load}. "
            f"Python {self.python}, PyMongo {self.pymongo}, Airflow {self.airflow}, mongod {self.mongod} "
            "(embedded, one-node replica set)."
        )


def _first(pattern: str, path: str) -> str | None:
    found = re.search(pattern, Path(path).read_text(encoding="utf-8")) if Path(path).exists() else None
    return found[1].strip() if found else None


def _mongod_version() -> str:
    answer = subprocess.run([find_mongod(), "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"v(\d+\.\d+\.\d+)", answer)
    return found[1] if found else "unknown"
