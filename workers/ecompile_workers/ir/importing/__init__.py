"""What the importers share: values of a source program, where its batch is, and a builder of our graph."""
