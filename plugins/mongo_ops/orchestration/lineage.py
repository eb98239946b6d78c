"""OpenLineage events and Airflow assets for collections: plain datasets, named without credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from airflow.sdk import Asset

DATABASE = "spotify_ai_agent"


def collection_asset(collection: str) -> Asset:
    """Return the asset that stands for a collection in the graph, whichever environment a run works on.

    The scheme is our own: the provider's ``mongodb`` makes each task import every asset handler there is, boto3 included.
    """
    return Asset(name=f"mongodb/{collection}", uri=f"x-mongodb://mongo-ops/{DATABASE}/{collection}")


def operator_lineage(lineage: Mapping[str, Any]) -> Any:
    """Return an OpenLineage ``OperatorLineage`` for {namespace, database, reads, writes, counts}; None when there is none."""
    if not lineage:
        return None
    from airflow.providers.openlineage.extractors import OperatorLineage  # noqa: PLC0415
    from openlineage.client.event_v2 import InputDataset, OutputDataset  # noqa: PLC0415
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics  # noqa: PLC0415

    space, database = lineage["namespace"], lineage["database"]
    counts = lineage["counts"]
    written = counts.get("modified", 0) + counts.get("inserted", 0) + counts.get("deleted", 0)
    facets: dict[str, Any] = {}
    if len(lineage["writes"]) == 1:  # the counts are of the migration; they are one collection's only if it writes one
        facets = {"outputStatistics": statistics.OutputStatisticsOutputDatasetFacet(rowCount=written)}
    return OperatorLineage(
        inputs=[InputDataset(namespace=space, name=f"{database}.{name}") for name in lineage["reads"]],
        outputs=[
            OutputDataset(namespace=space, name=f"{database}.{name}", outputFacets=dict(facets))
            for name in lineage["writes"]
        ],
    )
