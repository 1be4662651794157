"""Checkpoints as the official code saves them: by path, by address, damaged, of another network."""

from __future__ import annotations

import functools
import http.server
import random
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from paretune.core.errors import UserError
from paretune.detectors.yolox.detector import Yolo
from paretune.storage.atomic_files import sha256

CLASSES = 80


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded weights in the form of a release file."""
    torch.manual_seed(3)
    state = Yolo().build(CLASSES).state_dict()
    file = tmp_path_factory.mktemp("release") / "yolox_nano.pth"
    torch.save({"start_epoch": 300, "model": state, "optimizer": None}, file)
    return file


def state_of(file: Path) -> dict[str, torch.Tensor]:
    loaded: dict[str, torch.Tensor] = torch.load(file, weights_only=True)["model"]
    return loaded


def test_a_checkpoint_loads_tensor_by_tensor(saved: Path) -> None:
    own = Yolo(weights=str(saved), sha256=sha256(saved)).begin(CLASSES).network.state_dict()
    wanted = state_of(saved)
    assert own.keys() == wanted.keys()
    assert all(torch.equal(own[name], wanted[name]) for name in wanted)


def test_predictors_of_other_classes_start_afresh(saved: Path) -> None:
    own, wanted = Yolo(weights=str(saved)).begin(3).network.state_dict(), state_of(saved)
    other = {name for name in wanted if own[name].shape != wanted[name].shape}
    assert {name.split(".")[1] for name in other} == {"cls_preds"}
    assert all(torch.equal(own[name], wanted[name]) for name in wanted.keys() - other)


@pytest.fixture
def server(saved: Path) -> Iterator[str]:
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(saved.parent))
    handler.func.log_message = lambda *_: None  # type: ignore[attr-defined]
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_an_address_is_fetched_once_and_checked(
    saved: Path, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_WEIGHTS", str(tmp_path))
    url = f"{server}/{saved.name}"
    first = Yolo(weights=url, sha256=sha256(saved)).begin(CLASSES).network.state_dict()
    assert torch.equal(first["head.obj_preds.0.weight"], state_of(saved)["head.obj_preds.0.weight"])
    kept = list(tmp_path.iterdir())
    assert len(kept) == 1
    Yolo(weights="http://127.0.0.1:9/yolox_nano.pth", sha256=sha256(saved)).begin(CLASSES)  # lies there already
    with pytest.raises(UserError, match="cannot be fetched"):
        Yolo(weights=url, sha256="0" * 64).begin(CLASSES)
    assert list(tmp_path.iterdir()) == kept
    with pytest.raises(UserError, match=r"cannot be fetched.*put the file at"):
        Yolo(weights=f"{server}/missing.pth", sha256="1" * 64).begin(CLASSES)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_random_damage_is_refused_or_harmless(saved: Path, tmp_path: Path) -> None:
    """Torn off, or with bytes changed: one clear line, or weights that are finite numbers."""
    whole, chance, refused = saved.read_bytes(), random.Random(0), 0
    for number in range(150):
        content = bytearray(whole)
        if number % 3 == 0:
            content = content[: chance.randrange(len(content))]
        else:
            start = 0 if number % 3 == 1 else len(content) - 40_000  # the archive's directory lies at its end
            for _ in range(chance.randint(1, 30)):
                content[chance.randrange(start, len(content))] = chance.randrange(256)
        file = tmp_path / "damaged.pth"
        file.write_bytes(content)
        try:
            network = Yolo(weights=str(file)).begin(CLASSES).network
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)  # noqa: PT017 - some are still whole
        else:
            assert all(t.isfinite().all() for t in network.state_dict().values() if t.is_floating_point())
        with pytest.raises(UserError, match="another file"):
            Yolo(weights=str(file), sha256=sha256(saved)).begin(CLASSES)
    assert refused >= 50
