"""The API server, spoken to asynchronously: a thin typed client and list-then-watch streams. Decides nothing."""
