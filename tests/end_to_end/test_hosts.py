"""Two hosts: two network namespaces with a cable between them. Needs the right to make them."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.device import two_gpus
from tests.support.running import EXPERIMENT, TWO_RANKS, Running, are_equal, metrics, weights

NETWORK = "10.77.{}.{}"


@pytest.fixture
def hosts() -> Iterator[list[str]]:
    """The names of two namespaces; what runs in one reaches the other, and nothing else."""
    number = os.getpid() % 200
    names = [f"host{number}-{i}" for i in (0, 1)]
    ends = [f"cable{number}-{i}" for i in (0, 1)]
    try:
        for name in names:
            ip("netns", "add", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip(
            *("link", "add", ends[0], "netns", names[0], "type", "veth"),
            *("peer", "name", ends[1], "netns", names[1]),
        )
        for i, (name, end) in enumerate(zip(names, ends, strict=True)):
            ip("-n", name, "addr", "add", f"{NETWORK.format(number, i + 1)}/24", "dev", end)
            ip("-n", name, "link", "set", end, "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no network namespaces can be made here: {error}")
    try:
        yield names
    finally:
        for name in names:
            with suppress(subprocess.CalledProcessError):
                ip("netns", "delete", name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@two_gpus
@pytest.mark.slow
def test_two_hosts_train_the_steps_of_one(tmp_path, tiny_folder, hosts):
    flags = ("--exp", EXPERIMENT, "--model.path", tiny_folder, "--steps", "2", "--deterministic")
    one = Running(tmp_path / "log", *flags, "--runs", tmp_path / "one", launch=TWO_RANKS)
    assert one.end() == 0, one.said

    number = hosts[0].removeprefix("host").partition("-")[0]
    launched = []
    for i, name in enumerate(hosts):
        launch = (
            *(*TWO_RANKS, "--num_machines", "2", "--machine_rank", str(i)),
            *("--main_process_ip", NETWORK.format(number, 1), "--main_process_port", "29511"),
        )
        launched.append(
            Running(
                tmp_path / name,
                *(*flags, "--runs", tmp_path / "two"),
                launch=launch,
                within=("ip", "netns", "exec", name),
                environment={"GLOO_SOCKET_IFNAME": f"cable{number}-{i}"},
            )
        )
    for host in launched:
        assert host.end() == 0, host.said
    (ours,), (theirs,) = ((tmp_path / n).glob("*/*") for n in ("two", "one"))
    assert metrics(ours) == metrics(theirs)
    assert len(metrics(ours)) == 3
    assert are_equal(weights(ours), weights(theirs))
