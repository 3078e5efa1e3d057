"""Ray's process on a node: what it is started with, and how it is found."""

import socket
from pathlib import Path

from cluster import ray_node


def test_an_address_is_that_of_the_network_to_the_peer() -> None:
    assert ray_node.own_address("127.0.0.1") == "127.0.0.1"


def test_a_node_is_told_its_own_numbers_and_no_fixed_port(tmp_path: Path) -> None:
    command = ray_node.command(["--address=h:1"], "127.0.0.1", "n1", tmp_path)
    assert "--address=h:1" in command and "--node-name=n1" in command
    assert "--node-ip-address=127.0.0.1" in command and f"--temp-dir={tmp_path}" in command
    assert any(flag.startswith("--num-cpus=") for flag in command)
    assert any(flag.startswith("--num-gpus=") for flag in command)
    ports = [flag for flag in command if "port=" in flag]
    assert ports and all(flag.endswith("=0") for flag in ports)


def test_the_address_of_a_head_is_known_once_it_is_up(tmp_path: Path) -> None:
    assert ray_node.address_of_head(tmp_path) == ""
    (tmp_path / "ray_current_cluster").write_text("10.0.0.1:4321\n")
    assert ray_node.address_of_head(tmp_path) == "10.0.0.1:4321"
    ray_node.forget_address(tmp_path)
    assert ray_node.address_of_head(tmp_path) == ""
    ray_node.forget_address(tmp_path)


def test_whether_anything_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        assert ray_node.answers(address)
    assert not ray_node.answers(address)


def test_the_environment_names_the_token_and_the_nodes_folder(tmp_path: Path) -> None:
    variables = ray_node.environment("/run/token", tmp_path)
    assert variables["RAY_AUTH_MODE"] == "token"
    # Whoever submits may have told a local Ray to keep to loopback, and SLURM passes that on.
    assert variables["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == "1"
    assert variables["RAY_AUTH_TOKEN_PATH"] == "/run/token"
    assert str(tmp_path) in variables.values()
