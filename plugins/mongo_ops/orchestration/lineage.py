"""OpenLineage events and Airflow assets for collections: plain datasets, named without credentials."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

if TYPE_CHECKING:
    from mongo_ops.mongo.connection import Target

DATABASE = "spotify_ai_agent"


def collection_asset(collection: str) -> Asset:
    """Return the asset that stands for a collection in the graph, whichever environment a run works on.

    The scheme is our own: the provider's ``mongodb`` makes each task import every asset handler there is, boto3 included.
    """
    return Asset(name=f"mongodb/{collection}", uri=f"x-mongodb://mongo-ops/{DATABASE}/{collection}")


def namespace(target: Target) -> str:
    """Return how OpenLineage names the server, without credentials."""
    hosts = target.client.address
    return f"mongodb://{hosts[0]}:{hosts[1]}" if hosts else "mongodb://unknown"


def facets(lineage: Mapping[str, Any]) -> Any:
    """Return an OpenLineage ``OperatorLineage`` for what a task remembers of its work; None when it did none."""
    if not lineage:
        return None
    return transfer_lineage(lineage) if "object" in lineage else operator_lineage(lineage)


def operator_lineage(lineage: Mapping[str, Any]) -> Any:
    """Return an OpenLineage ``OperatorLineage`` for {namespace, database, reads, writes, counts}."""
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


def transfer_lineage(lineage: Mapping[str, Any]) -> Any:
    """Return an OpenLineage ``OperatorLineage`` between collections and an object.

    ``lineage`` is {namespace, database, collections, object, documents, exports}. The object is named as OpenLineage names files:
    the namespace is scheme and bucket, the name is the path.
    """
    from urllib.parse import urlsplit  # noqa: PLC0415

    from airflow.providers.openlineage.extractors import OperatorLineage  # noqa: PLC0415
    from openlineage.client.event_v2 import InputDataset, OutputDataset  # noqa: PLC0415
    from openlineage.client.facet_v2 import output_statistics_output_dataset as statistics  # noqa: PLC0415

    url = urlsplit(lineage["object"])
    there = (f"{url.scheme or 'file'}://{url.netloc}" if url.netloc else url.scheme or "file", url.path or "/")
    here = [(lineage["namespace"], f"{lineage['database']}.{name}") for name in lineage["collections"]]
    inputs, outputs = (here, [there]) if lineage["exports"] else ([there], here)
    facet = statistics.OutputStatisticsOutputDatasetFacet(rowCount=lineage["documents"])
    facets: dict[str, Any] = {"outputStatistics": facet} if len(outputs) == 1 else {}
    return OperatorLineage(
        inputs=[InputDataset(namespace=space, name=name) for space, name in inputs],
        outputs=[OutputDataset(namespace=space, name=name, outputFacets=dict(facets)) for space, name in outputs],
    )
