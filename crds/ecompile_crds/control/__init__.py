"""Control stream: messages and stubs generated from `control.proto` (`make generate`)."""
