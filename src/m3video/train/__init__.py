"""The loops: pre-training and probes, and the run directories that they keep."""
