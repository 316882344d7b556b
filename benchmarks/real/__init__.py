"""Measure published networks and compare them with the answers of people: see benchmarks/published.py."""
