"""Which checks there are, what they cost, and which codes each may report."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from pointcnn_cli.diagnose.case import Case
from pointcnn_cli.diagnose.findings import Measurement


class Tier(Enum):
    """What a check needs, cheapest first."""

    STATIC = "static"
    """Config, labels, groups, history: no value of a channel is read, TensorFlow is not imported."""
    DATA = "data"
    """One pass over the rows (`Case.scan`)."""
    PROBE = "probe"
    """Linear probes on features of the rows, refitted up to thousands of times: seconds, with many classes a minute."""
    GRAPH = "graph"
    """The network as a graph, untrained: imports TensorFlow."""
    FORWARD = "forward"
    """Forward passes of the trained network."""
    EXPERIMENT = "experiment"
    """Short trainings."""


@dataclass(frozen=True)
class Check:
    """One check."""

    codes: tuple[str, ...]
    tier: Tier
    measure: Callable[[Case], Iterable[Measurement]]
