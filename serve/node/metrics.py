"""What a node counts, for Prometheus."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
)
from prometheus_client.process_collector import ProcessCollector

SECONDS = (0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


class Metrics:
    """The counters of one node; their names and meanings are in docs/node.md."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.instances = Counter(
            "wsseg_node_instances",
            "Instances that were acknowledged",
            ["result"],
            registry=registry,
        )
        self.refused = Counter(
            "wsseg_node_refused", "Instances that were refused", ["reason"], registry=registry
        )
        self.associations = Counter(
            "wsseg_node_associations", "Associations of callers", ["result"], registry=registry
        )
        self.series = Counter(
            "wsseg_node_series",
            "Series that were measured or failed",
            ["result"],
            registry=registry,
        )
        self.objects = Counter(
            "wsseg_node_objects",
            "Results returned, retried, given up",
            ["result"],
            registry=registry,
        )
        self.queue = Gauge(
            "wsseg_node_queue", "Series in each state of the spool", ["state"], registry=registry
        )
        self.held = Gauge("wsseg_node_held_bytes", "Bytes of instances held", registry=registry)
        self.seconds = Histogram(
            "wsseg_node_series_seconds",
            "Seconds that measuring a series took",
            buckets=SECONDS,
            registry=registry,
        )
        # From the beginning, so that a rate is right from the first event on.
        for counter, values in (
            (self.instances, ("stored", "known")),
            (self.series, ("measured", "failed", "late")),
            (self.objects, ("returned", "retried", "dead")),
        ):
            for value in values:
                counter.labels(value)
