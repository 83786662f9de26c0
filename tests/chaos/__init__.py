"""The operator's real code against an API server in memory, with faults, in virtual time; used by tests and bench."""
