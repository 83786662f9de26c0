"""From steps to calls of generated functions: where each tensor lies, and which kernel computes it."""
