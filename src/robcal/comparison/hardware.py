"""What the seconds of a comparison were measured on."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

from robcal.base.jobs import available_cores


def hardware() -> dict[str, Any]:
    """Return what the seconds were measured on."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "cpu": _cpu_model(),
        "cores": available_cores(),
        "gpu": gpu,
        "system": platform.system(),
        "threads": torch.get_num_threads(),
    }


def _cpu_model() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()
