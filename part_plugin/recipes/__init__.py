"""The paper's experiments as a user runs them: data, settings, checkpoints, training."""
