"""Latents to bytes and back, exactly: integers, wavefronts, the container, the models."""
