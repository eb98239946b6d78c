"""A real mongod as a child process, for the demo, the tests and the benchmarks. Production code never imports it."""

from mongo_ops.embedded.server import EmbeddedError, Mongod, ReplicaSet, find_mongod

__all__ = ["EmbeddedError", "Mongod", "ReplicaSet", "find_mongod"]
