"""Converts SAM-Audio's PyTorch checkpoints to MLX. Needs torch; the package itself never does."""
