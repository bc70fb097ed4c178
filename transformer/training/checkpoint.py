"""Checkpoints: saved asynchronously and atomically, verified when restored.

    folder/<step>/params, optimizer_state     arrays (Orbax)
    folder/<step>/meta                        step, key, leaves, checksums, identity
    folder/<step>/digests.json, seal.json     SHA-256 of the files

A step's folder gets its name only when everything in it is written; in an object store,
which cannot rename, Orbax writes commit_success.txt into it last. Orbax does not
detect a changed bit in an array file. So the checksum of each leaf, computed before it
is saved, is compared after it is restored; the digests name the corrupt file, and cover
files whose corruption changes no array.
"""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils

from transformer import axes, checks, storage
from transformer.training import checkpoint_files, faults
from transformer.training.checkpoint_files import (
    DIGESTS,
    ITEMS,
    META,
    SEAL,
    CorruptCheckpoint,
)
from transformer.training.update import State

# The folder of checkpoints in a run folder, and the best step so far, beside it.
FOLDER = "checkpoints"
BEST = "best.json"
# Orbax writes it last.
COMMITTED = "commit_success.txt"


class Identity(NamedTuple):
    """The experiment and the model of the checkpoints in a folder, and the files, such
    as the tokenizer, that its numbers mean nothing without, each with a hash."""

    experiment: str
    fingerprint: str
    files: str = ""


def steps(folder: Path) -> list[int]:
    """The steps committed in `folder`, ascending."""
    if not folder.is_dir():
        return []
    return sorted(int(p.name) for p in folder.iterdir() if _is_step(p))


def _is_step(path: Path) -> bool:
    if not (path.name.isascii() and path.name.isdigit()):
        return False
    return (path / COMMITTED).exists() if checks.is_remote(path) else path.is_dir()


def move(step: Path, target: Path) -> None:
    """Move the folder of a step; it is never committed in part."""
    storage.move(step, target, last=COMMITTED)


def choose(folder: Path, which: str) -> list[int]:
    """The steps in `folder` to try, in this order: all, newest first, for "newest"; the
    one in best.json beside `folder` for "best"; else the step of that number.

    Raises ValueError for a step that is not there.
    """
    found = steps(folder)
    if which == "newest":
        return found[::-1]
    number = which
    if which == "best":
        file = folder.parent / BEST
        if not file.exists():
            raise ValueError(
                f"--checkpoint: expected newest or one of the steps {found} in "
                f"{folder}, got best of a run without an evaluation so far"
            )
        best = storage.read_json(file, {"step": int})
        number = str(best["step"])
    if number not in map(str, found):
        raise ValueError(
            f"--checkpoint: expected newest, best or one of the steps {found} in "
            f"{folder}, got {which}"
        )
    return [int(number)]


def open_(folder: Path, identity: Identity, *, keep: int = 3) -> Checkpoints:
    """The checkpoints in `folder`; saving keeps the newest `keep`.

    Reads only. Raises ValueError for a folder of another experiment or model.
    """
    check_identity(folder, identity)
    return Checkpoints(folder, identity, keep=keep)


def check_identity(folder: Path, identity: Identity) -> None:
    """Raise ValueError if the checkpoints in `folder` are not of `identity`."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder}: expected a folder of checkpoints, got a file")
    for step in reversed(steps(folder)):
        try:
            found = Identity(
                **checkpoint_files.read_metadata(folder / str(step))["identity"]
            )
        except CorruptCheckpoint:
            continue
        for field, expected, got in zip(Identity._fields, identity, found, strict=True):
            if expected != got:
                raise ValueError(
                    f"{folder}: it holds another {field}'s checkpoints: "
                    f"expected {expected or 'none'}, got {got or 'none'}"
                )
        return


class Checkpoints:
    """The checkpoints of one run, from `open_`. All processes must call its methods
    alike."""

    def __init__(self, folder: Path, identity: Identity, *, keep: int) -> None:
        self.folder = folder.absolute()
        self.identity = identity
        self.keep = keep
        self._manager: Any = None  # Made by the first save: it creates the folder.
        self._saving: int | None = None
        self._corrupt: list[int] = []
        self._pinned: set[int] = set()

    def pin(self, *steps: int | None) -> None:
        """Never delete these steps, beside the newest ones."""
        self._pinned |= {step for step in steps if step is not None}

    def unpin(self, step: int | None) -> None:
        """Let this step be deleted as any other."""
        self._pinned.discard(step or 0)

    def steps(self) -> list[int]:
        """The steps committed on disk, ascending; waits for the last save."""
        self.wait()
        return steps(self.folder)

    def save(self, state: State) -> None:
        """Save `state` in the background; its arrays may be donated after return.

        A step on disk that was not found corrupt is kept. Raises OSError when this save
        or the one before fails.
        """
        step = int(state.step)
        if step in set(self.steps()) - set(self._corrupt):
            return
        ocp = checkpoint_files.orbax()
        trees = {name: getattr(state, name) for name in ITEMS}
        items = {
            name: ocp.args.StandardSave(tree)
            for name, tree in trees.items()
            if jax.tree.leaves(tree)
        }
        items[META] = ocp.args.JsonSave(
            checkpoint_files.metadata(state, self.identity._asdict())
        )
        with self._raise_os_error(f"step {step} could not be saved"):
            if self._manager is not None and not self.folder.is_dir():
                print(f"warning: {self.folder} was removed, written again", flush=True)
                self._manager = None
            if self._manager is None:
                self._rename_corrupt()
                self._manager = _manager(
                    self.folder, self.keep, self._pinned, self._digest
                )
            self._saving = step
            # force: Orbax would silently skip a step below one that is on disk.
            args = ocp.args.Composite(**items)
            if not self._manager.save(step, args=args, force=True):
                raise OSError("Orbax did not save")

    def wait(self) -> None:
        """Block until the last save is on disk. Raises OSError if it failed, but where
        somebody removed its files: a line says so, and the next save is whole."""
        manager = self._manager
        try:
            self._finish_save()
        except OSError as error:
            if error.errno != errno.ENOENT or jax.process_count() > 1:
                raise
            print(f"warning: {error}: removed; the next save is whole", flush=True)
            with suppress(Exception):  # The same error; its threads end.
                manager.close()

    def _finish_save(self) -> None:
        if self._manager is None or self._saving is None:
            return
        step, primary = self._saving, jax.process_index() == 0
        folder = self.folder / str(step)
        with self._raise_os_error(f"step {step} could not be saved"):
            self._manager.wait_until_finished()
            self._saving = None
            if not self.folder.is_dir():
                return  # Removed by somebody: the next save writes again, and says so.
            if not _is_step(folder):
                raise OSError("it is not on disk")
        if primary:
            with self._raise_os_error(f"step {step} is saved, but without its {SEAL}"):
                own = [file for file in storage.files(folder) if file.parent == folder]
                storage.write_digests(folder, SEAL, own)

    def close(self) -> None:
        """Wait, and end the background threads. Raises OSError if the save failed."""
        self._finish_save()
        manager, self._manager = self._manager, None
        if manager is not None:
            manager.close()

    def restore(
        self, abstract_state: State, *, which: str = "newest"
    ) -> tuple[State, list[str]] | None:
        """The newest intact state (or as `choose` says), sharded like `abstract_state`,
        and a message for each newer step that was skipped; None where nothing was
        saved.

        Raises ValueError for a leaf of another shape or dtype, and when no saved step
        is intact.
        """
        targets, messages = abstract_state._asdict(), []
        arrays = {name: targets[name] for name in ITEMS}
        self.wait()
        for step in choose(self.folder, which):
            folder = self.folder / str(step)
            try:
                meta, parts = checkpoint_files.load_verified(folder, arrays)
            except CorruptCheckpoint as error:
                messages.append(f"{folder} is corrupt, skipped: {error}")
                self._corrupt.append(step)
                continue
            for name in ("step", "key"):
                parts[name] = checkpoint_files.place_array(meta[name], targets[name])
            return State(**parts), messages
        if messages:
            lines = "\n".join(messages)
            raise ValueError(
                f"{lines}\n{self.folder}: expected an intact step, got none"
            )
        return None

    def _digest(self) -> None:
        """Called by Orbax in the background, before the step's folder gets its name."""
        if jax.process_index() == 0:
            folder = _partial_folder(self.folder, self._saving)
            storage.write_digests(folder, DIGESTS, _item_files(folder))

    def _rename_corrupt(self) -> None:
        """Rename corrupt steps: they are kept for inspection."""
        if jax.process_index() == 0:
            for step in self._corrupt:
                number = len(list(self.folder.glob(f"{step}.corrupt*")))
                name = f"{step}.corrupt{number or ''}"
                move(self.folder / str(step), self.folder / name)
        self._corrupt = []
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("corrupt steps are renamed")

    @contextmanager
    def _raise_os_error(self, failing: str) -> Iterator[None]:
        """Any failure to write as OSError, but the end of another process; the next
        save makes a new manager."""
        try:
            yield
        except Exception as error:
            self._manager = self._saving = None
            if faults.is_peer_lost(error):
                raise
            number = _error_number(error)
            cause = os.strerror(number) if number else str(error).strip()
            failure = OSError(
                f"{self.folder}: {failing}: {cause or type(error).__name__}; "
                f"steps on disk: {steps(self.folder) or 'none'}"
            )
            failure.errno = number or errno.EIO
            raise failure from error


def restore_params(
    folder: Path, identity: Identity, abstract_params: Any, *, which: str = "newest"
) -> Any:
    """The newest intact parameters in `folder` (or as `choose` says), sharded like
    `abstract_params`.

    Raises ValueError where there are none, or of another experiment, shape or dtype.
    """
    check_identity(folder, identity)
    messages = []
    for step in choose(folder, which):
        try:
            path = folder.absolute() / str(step)
            target = {"params": abstract_params}
            _, parts = checkpoint_files.load_verified(path, target)
            _warn_of_skipped(messages, step)
            return parts["params"]
        except CorruptCheckpoint as error:
            messages.append(f"; {folder / str(step)} is corrupt: {error}")
    raise ValueError(
        f"{folder}: expected an intact checkpoint, got none{''.join(messages)}"
    )


def _warn_of_skipped(messages: list[str], step: int) -> None:
    """Say, beside the output of a verb, that newer steps were not intact."""
    if messages and jax.process_index() == 0:
        skipped = "".join(messages).removeprefix("; ")
        print(f"warning: {skipped}; step {step} is read", file=sys.stderr, flush=True)


def abstract_params(folder: Path) -> Any:
    """Shapes and dtypes of the newest parameters in `folder`, of whatever model, as on
    the first device. ValueError where there are none."""
    for step in choose(folder, "newest"):
        try:
            leaves = checkpoint_files.read_metadata(folder / str(step))["leaves"]
        except CorruptCheckpoint:
            continue
        mesh = axes.make_mesh(devices=jax.local_devices()[:1])
        return checkpoint_files.abstract_params(leaves, mesh)
    raise ValueError(f"{folder}: expected an intact checkpoint, got none")


def load_params(folder: Path) -> Any:
    """The newest intact parameters in `folder` on the host, of whatever model: nested
    dictionaries of numpy arrays. ValueError where there are none."""
    messages = []
    mesh = axes.make_mesh(devices=jax.local_devices()[:1])
    for step in choose(folder, "newest"):
        path = folder.absolute() / str(step)
        try:
            leaves = checkpoint_files.read_metadata(path)["leaves"]
            target = checkpoint_files.abstract_params(leaves, mesh)
            with jax.set_mesh(mesh):
                _, parts = checkpoint_files.load_verified(path, {"params": target})
            _warn_of_skipped(messages, step)
            return jax.device_get(parts["params"])
        except CorruptCheckpoint as error:
            messages.append(f"; {path} is corrupt: {error}")
    raise ValueError(
        f"{folder}: expected an intact checkpoint, got none{''.join(messages)}"
    )


def _error_number(error: Exception) -> int | None:
    """The errno, which tensorstore has in its message."""
    found = re.search(r"os_error_code='(\d+)'|OS error (\d+)", str(error))
    if found:
        return int(found.group(1) or found.group(2))
    missing = errno.ENOENT if str(error).startswith("NOT_FOUND:") else None
    return getattr(error, "errno", missing)


def _item_files(folder: Path) -> list[Path]:
    return [path for path in storage.files(folder) if path.parent != folder]


def _partial_folder(folder: Path, step: int | None) -> Path:
    """The folder of a step about to be committed; on object stores, which cannot
    rename, it has its name already."""
    if checks.is_remote(folder):
        return folder / str(step)
    return next(folder.glob(f"{step}.orbax-checkpoint-tmp*"), folder / str(step))


def _manager(
    folder: Path, keep: int, pinned: set[int], before_commit: Callable[[], None]
) -> Any:
    ocp = checkpoint_files.orbax()
    from orbax.checkpoint.checkpoint_managers import preservation_policy

    class PreservePins(preservation_policy.PreservationPolicy):
        """Preserves the steps in `pinned`, which may change."""

        def should_preserve(self, checkpoints: Any, *, context: Any) -> Any:
            return [each.step in pinned for each in checkpoints]

    newest = preservation_policy.LatestN(keep)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(
            [newest, PreservePins()]
        ),
        cleanup_tmp_directories=True,
        async_options=ocp.AsyncOptions(post_finalization_callback=before_commit),
    )
    return ocp.CheckpointManager(folder, options=options)
