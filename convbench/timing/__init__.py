"""From a callable to seconds: clocks, intervals, comparisons, rates of the machine. Knows no models."""
