"""The thread on which an experiment runs."""

import pytest

from engine.errors import UserError
from engine.runs.thread import Engine


def test_an_engine_gives_what_the_run_returns_or_raises():
    def works():
        yield "event"
        return "result"

    def fails():
        yield "event"
        raise UserError("data", "no")

    heard = []
    engine = Engine(works(), heard.append)
    engine.start()
    assert engine.result() == "result"
    assert heard == ["event"]
    engine = Engine(fails(), lambda event: None)
    engine.start()
    with pytest.raises(UserError, match="no"):
        engine.result()
