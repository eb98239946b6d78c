"""OpenStack Swift in one process: proxy with the S3 API, account, container and object server, on loopback, data on disk.

``python swift_server.py FOLDER PORT`` takes four ports from PORT on and prints ``ready``. Runs in an environment of its own that has
the package ``swift`` (see ``objectstore.py``); imports nothing of this project. For tests and benchmarks only: one replica, no TLS.
"""

from __future__ import annotations

import eventlet

eventlet.monkey_patch()

import configparser  # noqa: E402 - after the patch, as eventlet wants it
import ctypes  # noqa: E402
import logging  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

from eventlet import wsgi  # noqa: E402
from swift.common.ring import RingBuilder  # noqa: E402
from swift.common.utils import set_swift_dir  # noqa: E402
from swift.common.wsgi import SwiftHttpProtocol, loadapp  # noqa: E402

KINDS = ("account", "container", "object")
MIDDLEWARE = [
    "catch_errors",
    "gatekeeper",
    "healthcheck",
    "listing_formats",
    "bulk",
    "tempurl",
    "s3api",
    "tempauth",
    "copy",
    "slo",
    "dlo",
    "versioned_writes",
    "symlink",
]
OPTIONS = {
    "s3api": {"location": "us-east-1", "dns_compliant_bucket_names": "false", "min_segment_size": str(5 * 2**20)},
    "tempauth": {"user_tests_writer": "writersecret .admin", "user_tests_reader": "readersecret"},
    "versioned_writes": {"allow_versioned_writes": "true", "allow_object_versioning": "true"},
}


def main() -> None:
    """Write the configuration, start four servers, and serve until killed."""
    folder, port = Path(sys.argv[1]).resolve(), int(sys.argv[2])
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # end with the process that started us
    settings = folder / "etc"
    for one in (settings, folder / "srv" / "disk", folder / "cache"):
        one.mkdir(parents=True, exist_ok=True)
    ports = {kind: port + 1 + number for number, kind in enumerate(KINDS)}
    prefix = {"swift_hash_path_prefix": "mongo-ops", "swift_hash_path_suffix": "tests"}
    write(settings / "swift.conf", {"swift-hash": prefix, "storage-policy:0": {"name": "one", "default": "yes"}})
    set_swift_dir(str(settings))
    for kind, its_port in ports.items():
        make_ring(settings / f"{kind}.ring.gz", its_port)
        write(settings / f"{kind}-server.conf", backend(kind, folder))
    write(settings / "proxy-server.conf", proxy(settings))
    running = [serve(settings, kind, its_port) for kind, its_port in {**ports, "proxy": port}.items()]
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for server in running:
        server.wait()


def make_ring(path: Path, port: int) -> None:
    """Write a ring of one device, unless it is there."""
    if path.exists():
        return
    builder = RingBuilder(2, 1, 1)
    place = {"region": 1, "zone": 1, "ip": "127.0.0.1", "port": port, "device": "disk", "weight": 1.0, "meta": ""}
    builder.add_dev({"id": 0, **place, "replication_ip": "127.0.0.1", "replication_port": port})
    builder.rebalance()
    builder.get_ring().save(str(path))


def backend(kind: str, folder: Path) -> dict[str, dict[str, str]]:
    """Return the settings of a storage server."""
    default = {
        "swift_dir": str(folder / "etc"),
        "devices": str(folder / "srv"),
        "mount_check": "false",
        "disable_fallocate": "true",
        "fallocate_reserve": "0",
        "recon_cache_path": str(folder / "cache"),
        "log_level": "ERROR",
    }
    app = {"use": f"egg:swift#{kind}"}
    return {"DEFAULT": default, "pipeline:main": {"pipeline": f"{kind}-server"}, f"app:{kind}-server": app}


def proxy(settings: Path) -> dict[str, dict[str, str]]:
    """Return the settings of the proxy, which speaks S3."""
    filters = {f"filter:{name}": {"use": f"egg:swift#{name}", **OPTIONS.get(name, {})} for name in MIDDLEWARE}
    app = {"use": "egg:swift#proxy", "account_autocreate": "true", "allow_account_management": "true"}
    pipeline = {"pipeline": " ".join([*MIDDLEWARE, "proxy-server"])}
    default = {"swift_dir": str(settings), "log_level": "ERROR"}
    return {"DEFAULT": default, "pipeline:main": pipeline, "app:proxy-server": app, **filters}


def write(path: Path, sections: dict[str, dict[str, str]]) -> None:
    """Write an ini file; the order of keys and their case are kept."""
    parser = configparser.RawConfigParser(default_section="")
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_dict(sections)
    with path.open("w", encoding="utf-8") as file:
        parser.write(file)


def serve(settings: Path, kind: str, port: int) -> eventlet.greenthread.GreenThread:
    """Start one server in a green thread."""
    app = loadapp(str(settings / f"{kind}-server.conf"), global_conf={"log_name": kind})
    listening = eventlet.listen(("127.0.0.1", port), backlog=256)
    quiet = logging.getLogger("quiet")
    quiet.addHandler(logging.NullHandler())
    return eventlet.spawn(
        wsgi.server,
        listening,
        app,
        quiet,
        protocol=SwiftHttpProtocol,
        log_output=False,
        custom_pool=eventlet.GreenPool(256),
        capitalize_response_headers=False,
    )


if __name__ == "__main__":
    main()
