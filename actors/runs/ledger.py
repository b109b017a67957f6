"""The durable ledger of idempotency keys: what makes at-most-once survive a crash."""

from __future__ import annotations

import hashlib
import os
import sqlite3
import time
from pathlib import Path

from actors import directories
from actors.config import LedgerSettings
from actors.errors import ConfigurationError, DuplicateRun
from actors.schemas import ExecutionRequest, ExecutionResult

_SCHEMA = """
CREATE TABLE IF NOT EXISTS runs (
    user TEXT NOT NULL, key TEXT NOT NULL, request TEXT NOT NULL, run_id TEXT NOT NULL,
    started_at REAL NOT NULL, result TEXT,
    PRIMARY KEY (user, key)
) WITHOUT ROWID
"""


def request_hash(request: ExecutionRequest) -> str:
    """Equal for requests that ask for the same work; the key itself and how it waits are left out."""
    asked = request.model_dump_json(exclude={"idempotency_key", "priority", "max_wait_s"}, by_alias=True)
    return hashlib.sha256(asked.encode()).hexdigest()


class Ledger:
    """Remember, on disk, which keyed runs were started and how they ended.

    ``begin`` returns only after the row is on disk, so a key found without a result was started by somebody who did not
    live to say how it ended. Wall-clock times are used for expiry alone. Blocking: call it from a thread.
    """

    def __init__(self, settings: LedgerSettings, namespace: str) -> None:
        self._path = settings.path or directories.state() / f"{namespace}.ledger.sqlite3"
        self._ttl_s = settings.ttl_s
        self._connection: sqlite3.Connection | None = None

    def begin(self, request: ExecutionRequest, run_id: str) -> ExecutionResult | str | None:
        """Note that a keyed run is about to start.

        Returns None when it may start; the result when the key has one; else the id of the run that has the key.

        Raises:
            DuplicateRun: the key was used for a different request.
        """
        asked = request_hash(request)
        with self._open() as db:
            db.execute("DELETE FROM runs WHERE started_at < ?", (time.time() - self._ttl_s,))
            inserted = db.execute(
                "INSERT INTO runs VALUES (?, ?, ?, ?, ?, NULL) ON CONFLICT DO NOTHING",
                (request.user, request.idempotency_key, asked, run_id, time.time()),
            )
            if inserted.rowcount:
                return None
            row = db.execute(
                "SELECT request, run_id, result FROM runs WHERE user = ? AND key = ?",
                (request.user, request.idempotency_key),
            ).fetchone()
        if row[0] != asked:
            raise DuplicateRun("idempotency_key was used for a different request; use a new key for new work")
        return ExecutionResult.model_validate_json(row[2]) if row[2] else str(row[1])

    def finish(self, request: ExecutionRequest, result: ExecutionResult) -> None:
        """Keep the result; a run that never started gives its key back."""
        if not result.may_have_run:
            self.forget(request)
            return
        with self._open() as db:
            db.execute(
                "UPDATE runs SET result = ? WHERE user = ? AND key = ?",
                (result.model_dump_json(by_alias=True), request.user, request.idempotency_key),
            )

    def forget(self, request: ExecutionRequest) -> None:
        """Give the key back: the program certainly did not start."""
        with self._open() as db:
            db.execute("DELETE FROM runs WHERE user = ? AND key = ?", (request.user, request.idempotency_key))

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _open(self) -> sqlite3.Connection:
        if self._connection is None:
            file = self._own_file()
            # Serialised by the caller, who uses one thread at a time, though not always the same.
            self._connection = sqlite3.connect(file, timeout=10, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.execute(_SCHEMA)
        return self._connection

    def _own_file(self) -> Path:
        """Where the ledger is, made for this account alone before anything is written to it.

        Raises:
            ConfigurationError: another account could replace it.
        """
        try:
            file = directories.secure(self._path.parent) / self._path.name
            with open(os.open(file, os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)) as opened:
                os.fchmod(opened.fileno(), 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the ledger of idempotency keys cannot be kept in {self._path.parent}: {error.filename}: "
                f"{error.strerror}; set ledger.path to a file in a directory of this account's own"
            ) from None
        return file
