"""AR-AdaLS in the training loops of other libraries: Lightning, Hugging Face's Trainer, scikit-learn.

Each module needs its library, which an extra of robcal installs; nothing here is imported unless it is asked for.
"""
