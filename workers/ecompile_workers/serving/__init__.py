"""The serving pod: bridge, comparison, detectors, breaker, control client, server. Never imports torch or onnx."""
