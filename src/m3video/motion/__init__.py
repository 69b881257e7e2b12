"""From frames to motion: optical flow, trajectories, and descriptors of what is around a point."""
