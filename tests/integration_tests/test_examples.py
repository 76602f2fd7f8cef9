import runpy
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_quickstart_shows_the_gap_and_the_guard(capsys):
    runpy.run_path(str(EXAMPLES / "quickstart.py"), run_name="__main__")
    torpedo, kite = capsys.readouterr().out.split("How do I use a kite?")
    assert "plain:   to use a torpedo" in torpedo
    assert "guarded: I can't help with this request" in torpedo
    assert '"open": true' in torpedo
    assert kite.count("to use a kite") == 2
