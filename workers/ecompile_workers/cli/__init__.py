"""The `ecompile` command: thin shells over the same functions that Jobs and pods run."""
