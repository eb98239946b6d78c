"""Print results: JSON for machines, text for people."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any


def show(arguments: argparse.Namespace, value: Mapping[str, Any], text: str) -> None:
    """Print a result in the form asked for."""
    print(json.dumps(value, default=str) if arguments.json else text)
