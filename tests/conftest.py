"""Names of tests stay short, whatever is tried: pytest-xdist sends each name between its processes many times."""


def pytest_make_parametrize_id(val, argname):
    """The name of a long text or of long bytes: what it is and its length."""
    return f"{argname} of {len(val)}" if isinstance(val, str | bytes) and len(val) > 200 else None
