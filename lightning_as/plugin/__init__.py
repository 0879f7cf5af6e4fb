"""The Lightning plugin: the callback, and what it sees of a training step."""
