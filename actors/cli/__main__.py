"""``python -m actors.cli``: the command line where its script is not installed."""

from actors.cli.main import app

app(prog_name="python -m actors.cli")
