"""The demo: synthetic sounds and the training of its tiny model."""
