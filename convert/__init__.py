"""Converts SAM-Audio's checkpoints, and those of the models around it, to MLX."""
