"""Bulk export and import between MongoDB and object storage: exact, resumable, checked.

``engine`` is the door: plan, begin, one call per part, finish, in that order and for both directions. Any call may be killed and
made again. Never imports Airflow, and never shows a value of a document or a credential.
"""
