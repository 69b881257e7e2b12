"""Figures of this machine: what motion targets, loading and a training step cost."""
