"""Airflow's door to the engine: connections, parameters, operators, approvals, lineage. Decides nothing about a database.

Only this package (and dags/) imports airflow. Modules that a DAG file imports stay light: the engine, pymongo and pandas are
imported when a task runs.
"""
