"""The cluster's configuration is what Ray's launcher accepts and what this project needs, as can be told offline.

Ray's own check lets pass whatever is in ``provider`` and in the commands, which is where mistakes are made.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts import scripts

FILE = Path(__file__).parents[2] / "cluster.yaml"
CONFIG: dict[str, Any] = yaml.safe_load(FILE.read_text())
STARTS = ("head_start_ray_commands", "worker_start_ray_commands")


def start_command(section: str) -> tuple[dict[str, str], dict[str, str]]:
    """The environment and the options of the section's one ``ray start``."""
    [command] = [command for command in CONFIG[section] if "ray start" in command]
    words = shlex.split(command.rpartition(";")[2])
    program = next(place for place, word in enumerate(words) if word.endswith("/ray"))
    environment = dict(word.split("=", 1) for word in words[:program])
    return environment, {name: value for name, _, value in (word.partition("=") for word in words[program + 2 :])}


def cloud_variant() -> dict[str, Any]:
    """The configuration with the section for a cloud, which is a comment, in the place of the one for own machines."""
    found = re.search(r"^#\n((?:# .*\n)+)\nauth:", FILE.read_text(), re.MULTILINE)
    assert found
    cloud: dict[str, Any] = yaml.safe_load(re.sub(r"^# ", "", found[1], flags=re.MULTILINE))
    return {name: value for name, value in CONFIG.items() if name != "min_workers"} | cloud


@pytest.mark.parametrize("config", [CONFIG, cloud_variant()], ids=["own machines", "cloud"])
def test_the_launcher_accepts_it(config: dict[str, Any]) -> None:
    validate_config(prepare_config(config))


def test_the_launcher_would_refuse_an_unknown_section() -> None:
    with pytest.raises(Exception, match="Additional properties"):
        validate_config(prepare_config(CONFIG | {"worker_start_commands": []}))


def test_the_provider_has_no_key_that_the_launcher_would_ignore() -> None:
    assert CONFIG["provider"].keys() == {"type", "head_ip", "worker_ips"}
    assert CONFIG["provider"]["type"] == "local"


def test_every_machine_that_is_named_takes_part() -> None:
    assert CONFIG["min_workers"] == CONFIG["max_workers"] == len(CONFIG["provider"]["worker_ips"])


@pytest.mark.parametrize("section", STARTS)
def test_every_node_demands_the_token(section: str) -> None:
    environment, _ = start_command(section)
    assert environment["RAY_AUTH_MODE"] == "token"
    assert "~/.ray/auth_token" in CONFIG["file_mounts"]


@pytest.mark.parametrize("section", STARTS)
def test_what_ray_writes_on_a_node_lies_below_a_directory_that_is_closed_to_other_accounts(section: str) -> None:
    _, options = start_command(section)
    assert PurePosixPath(options["--temp-dir"]).parent == PurePosixPath("$HOME/.ray")
    assert any("chmod 700 ~/.ray " in command for command in CONFIG["setup_commands"])


@pytest.mark.parametrize("section", STARTS)
def test_every_node_has_slots_for_sandboxes(section: str) -> None:
    _, options = start_command(section)
    slots = json.loads(options["--resources"])
    assert slots.keys() == {"sandbox_slot"}
    assert slots["sandbox_slot"] >= 1


def test_every_node_of_a_cloud_has_slots_for_sandboxes() -> None:
    for node in cloud_variant()["available_node_types"].values():
        assert node["resources"]["sandbox_slot"] >= 1


def test_workers_join_where_the_head_listens() -> None:
    (_, head), (_, worker) = map(start_command, STARTS)
    assert "--head" in head
    assert worker["--address"] == f"$RAY_HEAD_IP:{head['--port']}"
    assert head["--autoscaling-config"] == "~/ray_bootstrap_config.yaml"


@pytest.mark.parametrize("section", STARTS)
def test_every_option_is_one_that_ray_start_has(section: str) -> None:
    known = {option for parameter in scripts.start.params for option in parameter.opts}
    assert start_command(section)[1].keys() <= known


def test_nothing_that_would_let_others_in_listens_on_every_address() -> None:
    _, head = start_command("head_start_ray_commands")
    assert head["--dashboard-host"] == "127.0.0.1"
    assert "0.0.0.0" not in FILE.read_text()


def test_the_project_is_installed_from_where_it_is_put_and_the_machine_is_checked() -> None:
    [source] = [remote for remote, local in CONFIG["file_mounts"].items() if local == "."]
    [install] = [command for command in CONFIG["setup_commands"] if "pip install" in command]
    assert f"{source}[science]".replace("~", "$HOME") in install
    assert CONFIG["setup_commands"][-1].endswith("e2b-orchestrator doctor")


def test_every_program_of_the_project_is_taken_from_its_own_environment() -> None:
    commands = [command for name, value in CONFIG.items() if name.endswith("_commands") for command in value]
    [venv] = [command.rpartition(" ")[2] for command in commands if "-m venv" in command]
    for program in re.findall(
        r"(\S*\b(?:pip|ray|e2b-orchestrator)) (?:install|start|stop|doctor)", "\n".join(commands)
    ):
        assert program.startswith(f"{venv}/bin/")
