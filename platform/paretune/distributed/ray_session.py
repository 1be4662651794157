"""A Ray session: a private one on this machine, or a cluster joined."""

from __future__ import annotations

import functools
import os
import secrets
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

from paretune.core.errors import UserError, one_line
from paretune.distributed import forwarded_env
from paretune.distributed.ray_leftovers import end_session
from paretune.system.device_holders import doing

SESSION_MARK = ".ray-session"
NEXT_TO_NOTHING = {"memory": 1.0}
"""Resources of a trial whose own workers do the work: Tune accepts no empty request."""

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_TRAIN_ENABLE_V2_MIGRATION_WARNINGS": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # a trial without a GPU share keeps CUDA_VISIBLE_DEVICES as it was
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # Tune's trials stay where we are: the paths of a job are seen from there
    "RAY_DEDUP_LOGS": "1",
    "RAY_worker_niceness": "0",  # workers run at nice 15 otherwise: anything on the machine outranks a measurement
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",  # else ray.train.report blocks for up to two seconds
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",  # Tune's own state is never read
}


@contextmanager
def session(runs: Path, address: str | None = None, *, nested: bool = False) -> Iterator[None]:
    """Run the block in a private Ray on this machine, or in a cluster that it joins.

    A private Ray keeps its files in a short temporary folder (socket paths over 107 bytes fail), which is removed at
    the end, and its token in ``runs``; nothing is written to the home folder.

    Args:
        runs: output folder.
        address: of the cluster; None starts a private Ray.
        nested: whether trials start training workers of their own. Ray frees the resources of a stopped trial's workers
            only with a dashboard.

    Raises:
        UserError: the private Ray did not start.
    """
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    if address is None:
        use_token(runs)  # Ray reads it when it is imported
    if address is not None:
        with _started(functools.partial(_join, address)):
            yield
        return
    _remove_left_session(runs)
    folder = Path(tempfile.mkdtemp(prefix="pt-"))
    (runs / SESSION_MARK).write_text(f"{os.getpid()} {folder}")
    try:
        with _started(functools.partial(_start, folder, nested=nested)):
            yield
    finally:
        end_session(folder)
        (runs / SESSION_MARK).unlink(missing_ok=True)


@contextmanager
def _started(start: Callable[[], None]) -> Iterator[None]:
    """Start or join a Ray for the block."""
    import ray

    with _own_signals():
        try:
            with _own_signals():  # also while it runs
                start()
            yield
        finally:
            ray.shutdown()


def _join(address: str) -> None:
    """Join a cluster as a submitted job, whose runtime environment contains this package."""
    import ray

    hook = {} if forwarded_env.file_here() is None else {"worker_process_setup_hook": forwarded_env.HOOK}
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="ERROR",
        # of QUIET, which was submitted with the job, Ray's job supervisor takes this one out
        runtime_env={"env_vars": {"RAY_worker_niceness": QUIET["RAY_worker_niceness"], **doing()}, **hook},
    )


def _start(folder: Path, *, nested: bool) -> None:
    """Start a private Ray.

    Raises:
        UserError: Ray did not start.
    """
    import ray
    from ray.util import get_node_ip_address

    port = _free_port()
    # Ray Train's processes ask "the" Ray of this machine who is alive: without its address that is the one that
    # somebody has started last, and perhaps stopped long ago
    address = f"{get_node_ip_address()}:{port}"
    try:
        os.environ["RAY_GCS_SERVER_PORT"] = str(port)
        ray.init(
            address="local",
            num_cpus=len(os.sched_getaffinity(0)),  # Ray counts the machine's, also those kept from this process
            _temp_dir=str(folder),
            include_dashboard=nested,
            dashboard_host="127.0.0.1",
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": {"PYTHONPATH": python_path(), **QUIET, **doing(), "RAY_ADDRESS": address}},
            object_store_memory=256 * 2**20,  # only small messages pass through it
        )
    except Exception as error:  # Ray raises bare ones when its own processes are not up in time
        why = one_line(error)
        hint = "is the machine overloaded, or short of memory? what is done is kept: run it again, or resume it"
        raise UserError(f"Ray did not start: {why}; {hint}") from error
    finally:
        os.environ.pop("RAY_GCS_SERVER_PORT", None)


def _free_port() -> int:
    """Return a port of this machine that nobody listens on now."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


@contextmanager
def _own_signals() -> Iterator[None]:
    """Restore the handlers of SIGTERM and SIGINT after the block.

    Ray replaces the handler of SIGTERM when it starts and when it ends; Tune leaves one for SIGINT that does nothing
    after the run.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def python_path() -> str:
    """Return a PYTHONPATH with which a worker imports this package from here."""
    import paretune

    ours = str(Path(next(iter(paretune.__path__))).parent)
    return os.pathsep.join(dict.fromkeys([ours, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]))


def use_token(runs: Path) -> None:
    """Make the random token of a private Ray, readable by its owner only, and set Ray's variables for it."""
    path = runs / ".ray-token"
    if not path.exists():
        handle = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path.resolve())


def _remove_left_session(runs: Path) -> None:
    """End what a killed run has left of its Ray, whose workers may still run a trial, and remove its folder."""
    mark = runs / SESSION_MARK
    if not mark.exists():
        return
    pid, _, folder = mark.read_text().partition(" ")
    left = Path(folder)
    if not Path(f"/proc/{pid}").exists() and left.name.startswith("pt-") and left.parent == Path(tempfile.gettempdir()):
        end_session(left)


def on_a_node(
    work: Callable[[], Any],
    resources: Mapping[str, float],
    runs: Path,
    address: str | None,
    labels: Mapping[str, str] | None = None,
) -> Any:
    """Call a function in a worker of a cluster, on a node that is the target; the driver itself runs on the head.

    Args:
        work: to call.
        resources: of the call, by Ray's names; those of a trial place it on the target.
        runs: output folder.
        address: of the cluster; None calls it in this process.
        labels: of the node; None is any.

    Returns:
        The function's result.

    Raises:
        RuntimeError: on a cluster, the function raised one or a UserError, or its worker died.
    """
    if address is None:
        return work()
    with session(runs, address):
        import ray
        from ray.exceptions import RayError, RayTaskError

        custom = dict(resources)
        options: dict[str, Any] = {
            "num_cpus": custom.pop("CPU", 0),
            "num_gpus": custom.pop("GPU", None),
            "resources": custom,
        }
        if labels:
            options["label_selector"] = dict(labels)
        try:
            done, why = ray.get(ray.remote(max_retries=0, **options)(_done_or_why).remote(work))
        except RayTaskError:  # a fault of ours
            raise
        except RayError as error:
            raise RuntimeError(f"the worker died (out of memory, or killed): {error}") from error
    if why is not None:
        raise RuntimeError(why)
    return done


def _done_or_why(work: Callable[[], Any]) -> tuple[Any, str | None]:
    """Return the function's result and None, or None and the text of its error, which Ray would send with a stack."""
    try:
        return work(), None
    except (RuntimeError, UserError) as error:
        return None, str(error)


def cores() -> float:
    """Return the CPU cores of the session."""
    import ray

    return float(ray.cluster_resources().get("CPU", 1))


def nodes() -> list[Mapping[str, float]]:
    """Return the resources of each living node of the session, by Ray's names."""
    import ray

    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def refuse_unless_fits(wanted: Mapping[str, float], what: str, nodes: Sequence[Mapping[str, float]]) -> None:
    """Raise an error for resources that no single node has; Ray would wait for them for ever, silently.

    Raises:
        UserError: names the requested resources and those of the nodes.
    """
    if any(all(node.get(name, 0) >= amount for name, amount in wanted.items()) for node in nodes):
        return
    names = sorted(
        {name for node in nodes for name in node if not name.startswith(("node:", "memory", "object_store"))}
    )
    has = "; ".join(", ".join(f"{name}: {node.get(name, 0):g}" for name in names) for node in nodes) or "no nodes"
    asks = ", ".join(f"{name}: {amount:g}" for name, amount in wanted.items() if amount)
    raise UserError(f"{what} asks for {asks} on one node; the cluster's nodes have: {has}")


@contextmanager
def terminated_like_interrupted() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C during the block, even if a background shell ignores Ctrl-C."""

    def forward(_signum: int, _frame: FrameType | None) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)  # Tune has a handler of its own while it runs

    before = signal.signal(signal.SIGTERM, forward)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
