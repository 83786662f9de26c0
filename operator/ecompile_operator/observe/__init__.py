"""First step: the local cache and the pods' reports become one frozen `Observed`. Writes nothing, decides nothing."""
