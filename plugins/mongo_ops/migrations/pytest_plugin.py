"""Pytest plugin for checking one's own MongoDB migrations (registered as `mongo_ops`)."""

from __future__ import annotations
