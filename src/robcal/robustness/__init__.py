"""Adversarial robustness of every example, and the levels made from it (method, sections 1 and 2)."""
