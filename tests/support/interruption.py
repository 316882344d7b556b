"""Breaking a run off after a number of batches, as a kill would."""


class Interrupted(Exception):
    pass


class StopAfter:
    """A reporter that raises `Interrupted` after so many batches; `total`: how many it must be told there are."""

    def __init__(self, batches, total=None):
        self.batches, self.total = batches, total

    def task(self, description, total):
        assert self.total in (None, total)

        def advance(done):
            if done == self.batches:
                raise Interrupted

        return advance
