"""The network as data: a frozen graph, importers, a reference interpreter, segments."""
