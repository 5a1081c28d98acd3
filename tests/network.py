"""Machines of a network on this one: two network namespaces, where the system permits them."""

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest


@contextlib.contextmanager
def two_machines(network: str) -> Iterator[list[tuple[str, ...]]]:
    """Yield what runs a command in each of two namespaces that a pair of virtual cards joins.

    network: as "10.77.0": they are .1 and .2 in it. Skip the test, with the reason, where they are not permitted."""
    names = [f"kit-{os.getpid()}-{end}" for end in (0, 1)]
    cards = [f"kit{os.getpid()}{end}"[-14:] for end in (0, 1)]
    made = [["netns", "add", name] for name in names]
    made.append(
        ["link", "add", cards[0], "netns", names[0], "type", "veth", "peer", "name", cards[1], "netns", names[1]]
    )
    for end, (name, card) in enumerate(zip(names, cards, strict=True)):
        made.append(["-n", name, "addr", "add", f"{network}.{end + 1}/24", "dev", card])
        made += [["-n", name, "link", "set", one, "up"] for one in (card, "lo")]
    try:
        for command in made:
            try:
                subprocess.run(["ip", *command], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                pytest.skip(f"network namespaces are not permitted here: {getattr(error, 'stderr', error)}")
        yield [("ip", "netns", "exec", name) for name in names]
    finally:
        for name in names:
            with contextlib.suppress(OSError):
                subprocess.run(["ip", "netns", "del", name], capture_output=True)
