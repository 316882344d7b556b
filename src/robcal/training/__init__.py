"""The one training loop: networks, data, a method and a recipe in, trained networks out.

`loop` trains members in lockstep, `member` is one network and the only file that knows the engine, `settings` what a
run is made with, `recipe` makes networks and their training from it, `predict` gives logits and probabilities. It
imports `methods` and what lies below them, and writes the state from which a stopped training goes on.
"""
