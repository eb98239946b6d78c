"""The door to transfers, for Airflow's tasks and the command line alike.

Export: ``plan_export`` (reads only), ``begin_export`` (optional; the first part does it), ``export_part`` for each of
``plan.parts`` in any process and order, ``finish_export``. ``verify_export`` reads everything again. Import: ``plan_import`` and
``preview_import`` (read only), ``begin_import`` (optional), ``import_part`` for each part, ``finish_import``. Calls may be killed at
any instant and repeated with the same plan and ``run_id``; the result is as if nothing had happened.
"""

from mongo_ops.transfer.export import begin_export, export_part, finish_export, plan_export
from mongo_ops.transfer.import_model import ImportPlan, ImportRequest, Tally
from mongo_ops.transfer.importing import (
    ImportReport,
    begin_import,
    finish_import,
    import_part,
    plan_import,
    preview_import,
)
from mongo_ops.transfer.model import ExportPlan, ExportRequest, Receipt
from mongo_ops.transfer.place import discard as discard_export
from mongo_ops.transfer.verify import verify as verify_export

__all__ = [
    "ExportPlan",
    "ExportRequest",
    "ImportPlan",
    "ImportReport",
    "ImportRequest",
    "Receipt",
    "Tally",
    "begin_export",
    "begin_import",
    "discard_export",
    "export_part",
    "finish_export",
    "finish_import",
    "import_part",
    "plan_export",
    "plan_import",
    "preview_import",
    "verify_export",
]
