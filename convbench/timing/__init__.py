"""Timing of callables: clocks, intervals, comparisons, measured rates of the machine. Independent of models."""
