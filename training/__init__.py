"""Training: settings, photographs, the step, the loop, checkpoints and export."""
