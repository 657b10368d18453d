"""Configurations that a person got wrong, drawn as for the settings' own tests, and counted."""

import test_messages as corrupted
from cases import how_many
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st


def test_wrong_configurations_are_told_by_their_keys(tally):
    refused_by_name = corrupted.test_corrupted_keys_are_named.hypothesis.inner_test

    @given(corrupted.corruptions(), st.booleans())
    @hypothesis_settings(max_examples=how_many(25, 1000), deadline=None, derandomize=True, database=None)
    def tried(corruption, as_text):
        held = False
        try:
            refused_by_name(corruption, as_text)
            held = True
        finally:
            tally("a wrong configuration", held, str(corruption))

    tried()
    tally.done()
