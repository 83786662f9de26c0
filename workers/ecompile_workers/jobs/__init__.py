"""One entry point per Job kind: read inputs, call the library, report. `ecompile run` calls the same functions."""
