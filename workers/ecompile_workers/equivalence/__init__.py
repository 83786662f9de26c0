"""Is the replacement equivalent? Metrics, test inputs, verdicts with measured value and limit."""
