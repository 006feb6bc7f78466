"""What Ctrl-C leaves of a search."""


class SearchInterrupted(KeyboardInterrupt):
    """Ctrl-C ended a search; ``result`` is what is best so far."""

    def __init__(self, result):
        super().__init__()
        self.result = result
