"""The demonstration: a whole life of one model on a real cluster. Its pieces are shared with the end-to-end tests."""
