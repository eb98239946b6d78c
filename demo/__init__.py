"""MongoDB and Airflow on one machine, for the demo and for tests through a real scheduler.

`python -m demo up | down | status | demo`. Nothing here is installed with the package, and production never imports it.
"""
