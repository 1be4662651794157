"""The dashboard of a Ray cluster's head: a client of its job API, and the nodes that it knows."""

from __future__ import annotations

import ipaddress
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from paretune.core.errors import UserError, one_line
from paretune.distributed.node_tasks import ClusterNode

if TYPE_CHECKING:
    from ray.job_submission import JobSubmissionClient

NODES_WAIT_S = 20.0
"""Seconds in which the first node of a head that has just started appears."""
AUTH_HELP = (
    "this cluster asks for a token: set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH=FILE (or RAY_AUTH_TOKEN) "
    "to the one its head was started with"
)


def _is_here(address: str) -> bool:
    """Return whether an address is of this machine alone."""
    host = urlsplit(address).hostname or ""
    with suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextmanager
def connected(address: str) -> Iterator[JobSubmissionClient]:
    """Yield a client whose errors become mistakes of the user."""
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient
    from ray.util.state.exception import RayStateApiException

    if not address.startswith(("http://", "https://")):
        raise UserError(f"--address {address}: expected the head's dashboard, such as http://HEAD:8265")
    if not _is_here(address) and os.environ.get("RAY_AUTH_MODE") != "token" and not os.environ.get("RAY_JOB_HEADERS"):
        raise UserError(f"{address}: a cluster beyond this machine is spoken to with a token only; {AUTH_HELP}")
    for name in ("ray.dashboard.modules.dashboard_sdk", "ray._private.runtime_env.packaging"):
        logging.getLogger(name).setLevel(logging.WARNING)  # else each upload of a folder is told in two lines
    try:
        yield JobSubmissionClient(address)
    except AuthenticationError as error:
        raise UserError(f"{address}: {AUTH_HELP}") from error
    except BrokenPipeError:  # of our own output
        raise
    except ConnectionError as error:
        raise UserError(f"{address}: no Ray dashboard answers there (is the head up, and the port right?)") from error
    except (RuntimeError, OSError, ValueError, KeyError, RayStateApiException) as error:  # another server, a lost head
        why = one_line(error)
        raise UserError(f"{address}: does not answer as a Ray dashboard does (is the port right?): {why}") from error


def living_nodes(address: str) -> list[ClusterNode]:
    """Return the living nodes, after waiting for a head that has just started."""
    from ray.util.state import list_nodes

    end = time.monotonic() + NODES_WAIT_S
    while True:
        nodes = [node for node in list_nodes(address=address, detail=True) if node.state == "ALIVE"]
        if nodes or time.monotonic() > end:
            return [ClusterNode(node.node_name, node.resources_total, node.labels or {}) for node in nodes]
        time.sleep(0.5)
