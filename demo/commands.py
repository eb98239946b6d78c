"""The commands behind `make up`, `make demo`, `make status` and `make down`."""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path
from types import FrameType

from rich.console import Console

from demo.api import ApiError
from demo.environment import ROOT, USERS
from demo.stack import Stack
from demo.state import StackError
from mongo_ops.embedded import EmbeddedError

INTERRUPTED = 130


def run_folder() -> Path:
    """Return where the stack lives: ``MONGO_OPS_RUN``, else .run in the project."""
    return Path(os.environ.get("MONGO_OPS_RUN") or ROOT / ".run")


def start(stack: Stack, console: Console) -> bool:
    """Start the stack with a sign of life; return False when it was up."""
    with console.status("Starting MongoDB and Airflow ..."):
        return stack.start()


def tell_how_to_use(stack: Stack, console: Console) -> None:
    """Print where it is, who may log in, how to trigger and how to stop."""
    console.print(f"\n[bold]Airflow[/bold]   {stack.url}", highlight=False)
    for user, role in USERS.items():
        means = "operates, and approves what admin triggered" if role == "op" else "may do everything"
        console.print(f"          {user} / {stack.passwords[user]}   ({means})", highlight=False, markup=False)
    console.print(f"[bold]MongoDB[/bold]   {stack.mongo_uri}", highlight=False)
    console.print("          one server, three databases: development, staging, production")
    console.print(f"[bold]Trigger[/bold]   {stack.url}/dags/mongo_migrate, or `make demo`", highlight=False)
    console.print(f"[bold]Logs[/bold]      {stack.run}/logs", highlight=False)
    console.print("[bold]Stop[/bold]      make down\n")


def up(stack: Stack, console: Console) -> int:
    """Start the stack, or say that it is up."""
    if not start(stack, console):
        console.print("It is up already.")
    tell_how_to_use(stack, console)
    return 0


def down(stack: Stack, console: Console) -> int:
    """Stop the stack to the last process."""
    if not stack.members():
        console.print("Nothing is running.")
        return 0
    with console.status("Stopping ..."):
        killed = stack.stop()
    for process in killed:
        console.print(f"{process.name} ({process.pid}) did not stop by itself and was killed.")
    console.print("Stopped; no process is left. Data and logs are kept in the run folder.")
    return 0


def status(stack: Stack, console: Console) -> int:
    """Say what runs; 0 when everything does, 1 otherwise."""
    members = stack.members()
    if not members:
        console.print("Nothing is running. Start it with `make up`.")
        return 1
    for component, state in stack.health().items():
        console.print(f"{component:<16}{state}")
    console.print(f"{'processes':<16}{len(members)}")
    if stack.is_up():
        tell_how_to_use(stack, console)
        return 0
    console.print("Not everything answers. `make down`, then `make up`, starts afresh.")
    return 1


def demo(stack: Stack, console: Console) -> int:
    """Run the whole story."""
    from demo.story import tell  # noqa: PLC0415  (the other commands need not wait for its imports)

    start(stack, console)
    code = tell(stack, console)
    tell_how_to_use(stack, console)
    return code


def _terminate(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> int:
    """Parse the words, do it, and turn every expected fault into one message."""
    commands = {"up": up, "down": down, "status": status, "demo": demo}
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    parser.add_argument("command", choices=commands)
    command = parser.parse_args().command
    console = Console()
    stack = Stack(run_folder(), int(os.environ.get("AIRFLOW_PORT", "8080")), detached=True, say=console.print)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    try:
        return commands[command](stack, console)
    except KeyboardInterrupt:
        if command in ("up", "demo"):
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            console.print("\nInterrupted; stopping everything ...")
            stack.stop()
        return INTERRUPTED
    except (StackError, ApiError, EmbeddedError, TimeoutError) as error:
        console.print(f"[red]{command} failed:[/red]", end=" ")
        console.print(str(error), markup=False, highlight=False)
        return 1
