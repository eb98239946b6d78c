"""mongo-ops: operate MongoDB with Apache Airflow.

Foundations (``mongo``, ``storage``, ``audit``) carry features (``migrations``, ...), features know nothing of
Airflow, and ``orchestration`` is the only room that imports it. docs/architecture.md has the picture.
"""

__version__ = "0.1.0"
