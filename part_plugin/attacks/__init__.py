"""Adversarial examples under a radius of their own for every pixel."""
