"""Health checks: facts of a deployment in, findings out, with a history and a report to look at.

Reads with a health user's rights; writes only ``ops_health`` and the report's files. Never runs ``dbHash`` or a foreground ``validate``.
"""
