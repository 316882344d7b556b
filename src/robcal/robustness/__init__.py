"""Adversarial robustness of every example, and the levels made from it (METHOD 2, 3, 7)."""
