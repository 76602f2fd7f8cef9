"""What options of the command line choose from; importing this is light."""

from __future__ import annotations

from enum import StrEnum


class PerformancePart(StrEnum):
    """What `performance` can measure."""

    overhead = "overhead"
    guard = "guard"
    judging = "judging"
    throughput = "throughput"
    fit_seconds = "fit_seconds"
    fit_cpu_seconds = "fit_cpu_seconds"
    fit_memory_mib = "fit_memory_mib"
    import_seconds = "import_seconds"


class ServingPart(StrEnum):
    """What `serving` can measure."""

    proxy = "proxy"
    load = "load"
    faults = "faults"
    cases = "cases"
    property = "property"
    schema_fuzz = "schema_fuzz"
    soak = "soak"
