"""Numbers that go wrong at a chosen moment."""

NAN = float("nan")


class Nth:
    """A function whose result is spoilt at its call number `count` (from 0)."""

    def __init__(self, original, count, spoil):
        self.original, self.left, self.spoil = original, count, spoil

    def __call__(self, *args, **kwargs):
        found = self.original(*args, **kwargs)
        self.left -= 1
        return self.spoil(found) if self.left == -1 else found
