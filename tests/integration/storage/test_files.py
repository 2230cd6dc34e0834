"""What a storage root of either kind does: the same on a local disk and in a bucket."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from akool_dagster.storage import NOTHING, STALE_SECONDS, ChangedMeanwhileError, StorageError, StorageRoot
from tests.clock import FakeClock
from tests.integration.storage.helpers import RELATIVE, put, put_looked
from tests.thoroughness import thorough

pytestmark = pytest.mark.usefixtures("system_temporary_folder")

pytest_plugins = ["tests.integration.object_stores"]


@pytest.fixture(params=["local", "s3"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> StorageRoot:
    """Give an empty storage root of either kind."""
    return StorageRoot(request.getfixturevalue("object_store").url if request.param == "s3" else str(tmp_path / "root"))


LARGE = os.urandom(3 * 64 * 1024 + 7)
STEPS = st.tuples(
    st.sampled_from(["put", "put_looked", "create", "remove"]),
    st.sampled_from(["a.mp4", "b.mp4"]),
    st.sampled_from([b"", b"first", b"second, longer", LARGE]),
)
folders = (f"akool/{number}" for number in count())


@settings(max_examples=thorough(8, 100), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(STEPS, max_size=8))
def test_a_root_is_a_map_from_paths_to_contents_that_every_process_sees_at_once(
    root: StorageRoot, steps: list[tuple[str, str, bytes]]
) -> None:
    other, folder = StorageRoot(root.uri()), next(folders)
    model: dict[str, bytes] = {}
    for step, name, content in steps:
        relative = f"{folder}/{name}"
        if step == "remove":
            assert root.remove(relative) is (model.pop(name, None) is not None)
        elif step == "create":
            assert root.create(relative, content) is (name not in model)
            model.setdefault(name, content)
        else:
            (put if step == "put" else put_looked)(root, content, relative)
            model[name] = content
        expected = model.get(name)
        assert root.exists(relative) is (expected is not None)
        assert root.look(relative).size == (None if expected is None else len(expected))
        with root.local_copy(relative) as copy:
            assert (copy and copy[0].read()) == expected
            assert (NOTHING if copy is None else copy[1]) == root.look(relative)
        assert other.read_bytes(relative) == expected
        assert other.list_files(folder) == sorted(model)


def test_the_files_of_a_folder_are_listed_without_its_folders(root: StorageRoot) -> None:
    for relative in ("akool/results/b.parquet", "akool/results/day/c.mp4"):
        put(root, b"x", relative)
    assert root.list_files("akool/results") == ["b.parquet"]
    assert root.list_files("akool/results/b.parquet/no-folder") == []
    assert root.folders("akool/results") == (["day"] if root.is_local else [])
    assert root.folders("akool/nowhere") == []


def test_the_size_of_a_file_that_is_not_there_is_an_error_that_names_the_file(root: StorageRoot) -> None:
    with pytest.raises(StorageError, match=f"There is no file at {root.uri(RELATIVE)}"):
        root.size(RELATIVE)
    put(root, b"content")
    assert root.size(RELATIVE) == 7


@pytest.mark.parametrize("relative", ["../x", "a/../../x", "/x", "a//b", ""])
def test_no_path_leads_out_of_the_root(relative: str, root: StorageRoot, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"content")
    attempts: list[Callable[[], object]] = [
        lambda: root.exists(relative),
        lambda: root.publish(file, relative),
        lambda: root.create(relative, b""),
        lambda: root.temporary(relative).__enter__(),
        lambda: root.lock(relative, seconds=0, clock=FakeClock()).__enter__(),
    ]
    for attempt in attempts:
        with pytest.raises(StorageError, match="not a path below the storage root"):
            attempt()


def test_nothing_is_visible_before_publishing_or_after_giving_up(root: StorageRoot) -> None:
    with pytest.raises(RuntimeError), root.temporary(RELATIVE) as path:
        path.write_bytes(b"half")
        assert not root.exists(RELATIVE)
        raise RuntimeError
    assert not path.exists()
    assert not root.exists(RELATIVE)


def test_a_temporary_file_can_be_published_under_another_name_of_its_folder(root: StorageRoot) -> None:
    with root.temporary("day/a.mp4") as path:
        path.write_bytes(b"refused")
        root.publish(path, "day/a.unverified")
    assert root.list_files("day") == ["a.unverified"]
    assert root.read_bytes("day/a.unverified") == b"refused"


def test_a_file_where_nothing_was_is_refused_when_something_is_there_by_now(root: StorageRoot) -> None:
    found = root.look(RELATIVE)
    put(root, b"faster", replacing=found)
    with pytest.raises(ChangedMeanwhileError, match=r"09\.parquet: another run wrote it meanwhile, which stays"):
        put(root, b"slower", replacing=found)
    assert root.read_bytes(RELATIVE) == b"faster"


def test_a_copy_stays_as_it_was_when_the_file_is_replaced(root: StorageRoot) -> None:
    put(root, LARGE)
    with root.local_copy(RELATIVE) as copy:
        assert copy is not None
        put(root, b"newer", replacing=copy[1])
        assert copy[0].read() == LARGE
    assert root.read_bytes(RELATIVE) == b"newer"


def test_an_error_of_the_reader_of_a_copy_stays_what_it_is(root: StorageRoot) -> None:
    put(root, b"old")
    with pytest.raises(FileNotFoundError, match="another"), root.local_copy(RELATIVE):
        raise FileNotFoundError("another")


def test_of_eight_threads_that_create_a_file_one_does(root: StorageRoot) -> None:
    with ThreadPoolExecutor(8) as pool:
        done = list(pool.map(lambda number: root.create(RELATIVE, bytes([number])), range(8)))
    assert done.count(True) == 1
    assert root.read_bytes(RELATIVE) == bytes([done.index(True)])


@pytest.mark.parametrize("error", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_error_while_writing_names_the_folder_and_the_cause(error: int, root: StorageRoot) -> None:
    with pytest.raises(StorageError, match=os.strerror(error)), root.temporary(RELATIVE) as path:
        path.write_bytes(b"half")
        raise OSError(error, os.strerror(error))
    assert not path.exists()


def test_an_error_of_the_network_while_writing_stays_what_it_is(root: StorageRoot) -> None:
    with pytest.raises(ConnectionResetError), root.temporary(RELATIVE):
        raise ConnectionResetError(errno.ECONNRESET, "reset")


# What killed processes left


@pytest.mark.parametrize("prefix", ["", ".akool-dagster"], ids=["local", "s3"])
def test_only_the_temporary_files_that_nobody_writes_any_more_are_removed(
    prefix: str, tmp_path: Path, system_temporary_folder: Path
) -> None:
    root, folder = StorageRoot(str(tmp_path / "root")), tmp_path / "root/day"
    if prefix:
        root, folder = StorageRoot("s3://bucket/leftovers"), system_temporary_folder
    clock = FakeClock()
    with root.temporary("day/a.mp4") as path:
        assert path.parent == folder and path.name.startswith(f"{prefix}.a.mp4.")
    ages = {
        f"{prefix}.a.mp4.1.partial": STALE_SECONDS + 1,
        f"{prefix}.a.mp4.2.partial": STALE_SECONDS - 1,
        ".hidden": 9999.0,
        "b.partial": 9999.0,
    }
    for name, age in ages.items():
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, (0, clock.now_ms() / 1000 - age))
    assert root.remove_stale_temporaries("day", clock) == 1
    left = sorted(folder.iterdir())
    assert [path.name for path in left] == sorted([*ages][1:])
    for path in left:
        path.unlink()


def test_a_folder_that_is_not_there_needs_no_cleaning(root: StorageRoot) -> None:
    assert root.remove_stale_temporaries("nowhere", FakeClock()) == 0
