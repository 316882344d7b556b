"""Networks of these tests are tiny: one thread is faster, and rounds alike everywhere."""

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def threads_of_task(task, reporter):
    """Return how many threads torch takes in the process of a task."""
    return torch.get_num_threads()
