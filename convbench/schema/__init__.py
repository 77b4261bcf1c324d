"""Cases, rows and backends. Imports nothing else of ours."""

from .backend import Backend
from .case import MODES, PRECISIONS, STATUSES, VERDICTS, Case, Second, Step
from .rows import KINDS, CaseRow, KernelTiming, Measurement, QualityRow, ReplayStep, Row, SamplingMeasurement, TF32Cell

__all__ = [
    "KINDS",
    "MODES",
    "PRECISIONS",
    "STATUSES",
    "VERDICTS",
    "Backend",
    "Case",
    "CaseRow",
    "KernelTiming",
    "Measurement",
    "QualityRow",
    "ReplayStep",
    "Row",
    "SamplingMeasurement",
    "Second",
    "Step",
    "TF32Cell",
]
