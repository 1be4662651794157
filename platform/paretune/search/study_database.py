"""The database of a study: a SQLite file, or one on a server."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import UserError, one_line
from paretune.core.secret_texts import without_secrets

if TYPE_CHECKING:
    import optuna

JOURNAL = "proposed.jsonl"
"""File beside the database: all proposed trials, a line each."""
_DRIVERS = {"postgresql": "postgresql+pg8000", "postgres": "postgresql+pg8000"}


@dataclass(frozen=True)
class StudyDatabase:
    """Where the trials of a study are kept."""

    file: Path
    """SQLite file; the journal lies beside it, also of a study on a server."""
    name: str
    """Name of the study, which a server holds once."""
    url: str | None = None
    """URL of a database on a server, in which variables such as ``$PASSWORD`` are replaced; None is the file."""

    @property
    def is_there(self) -> bool:
        """Return whether the study was begun."""
        return self.file.is_file() if self.url is None else self.file.with_name(JOURNAL).is_file()

    @property
    def words(self) -> str:
        """Return the place for people, without user and password."""
        return str(self.file) if self.url is None else without_secrets(os.path.expandvars(self.url))

    def storage(self) -> optuna.storages.RDBStorage:
        """Open the database by Optuna.

        Raises:
            UserError: a server does not answer or refuses, or its driver is not installed.
        """
        import optuna

        if self.url is None:
            return optuna.storages.RDBStorage(f"sqlite:///{self.file}")
        kind, _, rest = os.path.expandvars(self.url).partition("://")
        with self.answering():
            return optuna.storages.RDBStorage(
                f"{_DRIVERS.get(kind, kind)}://{rest}", engine_kwargs={"pool_pre_ping": True}
            )

    def trials(self) -> list[optuna.trial.FrozenTrial]:
        """Return the trials of the study; none if it was not begun.

        Raises:
            UserError: as `storage`.
        """
        import optuna

        if not self.is_there:
            return []
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = self.storage()
        with self.answering():
            try:
                return optuna.load_study(study_name=self.name, storage=storage).get_trials(deepcopy=False)
            finally:
                storage.engine.dispose()

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Turn errors of a server's driver into one of the user's.

        Raises:
            UserError: the server does not answer or refuses, or its driver is not installed.
        """
        from sqlalchemy.exc import DBAPIError, NoSuchModuleError

        try:
            yield
        except (DBAPIError, NoSuchModuleError, ModuleNotFoundError, ImportError, ValueError) as error:
            if self.url is None:
                raise
            raise UserError(f"search.storage: {self.words}: {_reason(error)}") from error


def _reason(error: Any) -> str:
    """Return why a server cannot be used."""
    missing = error if isinstance(error, ModuleNotFoundError) else getattr(error, "__cause__", None)
    if isinstance(missing, ModuleNotFoundError):
        return f"needs {missing.name}: not installed here (pip install 'paretune[postgres]')"
    why = without_secrets(one_line(getattr(error, "orig", None) or error))
    return f"the study cannot be opened there ({why}); name another database, or none for a file in the sweep's folder"
