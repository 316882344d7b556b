"""Wide ResNets trained on one GPU with data, augmentation and steps on the device; `benchmarks/gpu.py` runs it."""
