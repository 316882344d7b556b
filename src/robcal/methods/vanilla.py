"""Plain training: cross-entropy with hard labels. Every default of `Method`, unchanged."""

from __future__ import annotations

from robcal.methods.method import Method


def vanilla() -> Method:
    """Train on the cross-entropy with hard labels."""
    return Method(name="vanilla", title="Plain")
