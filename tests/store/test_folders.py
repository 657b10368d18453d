"""Names of runs, and the log in their folders."""

from recorded import opened

from engine import store


def test_fresh_folders_differ(tmp_path):
    environ = {"CFM_RUNS": str(tmp_path)}
    for _ in range(3):
        folder = store.fresh_folder("digits", "abcdef012", environ)
        folder.mkdir()
        assert folder.name.startswith("digits-")
        assert "-abcdef" in folder.name


def test_the_log_is_written_on_at_its_end(tmp_path):
    opened(tmp_path / "r").close("stopped")
    stored = store.StoredRun(tmp_path / "r")
    assert stored.log() == ""
    for word in (b"a\n", b"\xff\n"):
        with store.open_log(tmp_path / "r") as log:
            log.write(word)
    assert stored.log() == "a\n�\n"
