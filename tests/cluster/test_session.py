"""Ray for one search, whatever else is on the machine."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster import session
from cluster.session import ray_session
from objectives.errors import RequestError


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def run(program: str, folder: str) -> subprocess.CompletedProcess[str]:
    """To its end, with Ray's files in the folder, whose name is short, since sockets lie in it."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"RAY_TMPDIR": folder},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_a_search_of_this_machine_needs_no_cluster_that_ran_here() -> None:
    """`ray start` leaves a note of its cluster; Ray's own default would join that, and fail."""
    program = "import cluster.session as s\nwith s.ray_session(1, None) as ready: ready()\nprint('ready')"
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        note = Path(folder) / "ray" / "ray_current_cluster"
        note.parent.mkdir()
        note.write_text("127.0.0.1:1")
        done = run(program, folder)
        assert done.stdout.strip() == "ready", done.stderr


_STRANGER = """
import os, sys
import cluster.session as s
with s.ray_session(1, None) as ready:
    ready()
    from ray._raylet import GcsClient
    import subprocess
    ask = "import sys; from ray._raylet import GcsClient; GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None)"
    strange = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    address = s._node().gcs_address
    for environment in (os.environ, strange | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "another"}, strange):
        print(subprocess.run([sys.executable, "-c", ask, address], env=environment, capture_output=True).returncode,
              file=sys.stderr)
    print(os.environ["RAY_AUTH_TOKEN"], file=sys.stderr)
"""


def test_other_users_of_the_machine_are_not_let_in(tmp_path: Path) -> None:
    """Nor is the token written anywhere, where no home can be."""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        mine = {key: value for key, value in os.environ.items() if not key.startswith("RAY_AUTH")}
        done = subprocess.run(
            [sys.executable, "-c", _STRANGER],
            env=mine | {"RAY_TMPDIR": folder, "HOME": str(tmp_path / "file" / "none")},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        *codes, token = done.stderr.split()[-4:]
        assert codes == ["0", "1", "1"]
        assert len(token) == 64
        logs = [file for file in Path(folder).rglob("*") if file.is_file()]
        assert len(logs) > 3
        assert not [file for file in logs if token.encode() in file.read_bytes()]


def test_a_token_that_the_user_has_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    assert set(session._token()) == {"RAY_AUTH_TOKEN"}
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("mine")
    assert session._token() == {}
    monkeypatch.setenv("HOME", str(tmp_path / "other"))
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / ".ray" / "auth_token"))
    assert session._token() == {}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("a" * 64 + ":6379", "does not answer (encoding with 'idna' codec failed (UnicodeError: label too long))"),
        ("127.0.0.1:1", "does not answer (Connection refused)"),
        pytest.param(
            "[::1]:1",
            "does not answer (Connection refused)",
            marks=pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6"),
        ),
    ],
)
def test_an_address_where_nobody_answers(address: str, why: str) -> None:
    with pytest.raises(RequestError) as refusal, ray_session(1, address):
        pass
    assert str(refusal.value) == f"--ray-address {address} {why}: check that the cluster runs there"


def test_rays_client_is_no_way_into_a_cluster() -> None:
    with pytest.raises(RequestError) as refusal, ray_session(1, "ray://head:10001"):
        pass
    assert str(refusal.value) == (
        "--ray-address ray://head:10001 is one for Ray's client, through which no search can run: run it on a machine "
        "of the cluster, with --ray-address auto"
    )


def test_a_second_interrupt_while_ray_is_waited_for_locks_no_later_search_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be told of another search in this process, which nothing ends."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "_connect", lambda *_: None)
    monkeypatch.setattr(session, "wait", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), ray_session(1, None):
            pass


def test_a_ray_that_is_too_slow_to_start_is_no_fault_of_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine with much else to do; what Ray raises then is of no class of its own."""

    def slow(*_: object, **__: object) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", slow)
    with pytest.raises(RequestError) as refusal, ray_session(1, None) as ready:
        ready()
    assert str(refusal.value) == (
        "Ray on this machine cannot be used (The current node timed out during startup): check memory, disk and load"
    )


def test_what_other_threads_print_while_one_searches_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the cells of a notebook; of the search's own thread and of Ray's nothing is, beside the result."""
    monkeypatch.setattr(session, "_connect", lambda *_: print("Ray"))
    inside, printed = threading.Event(), threading.Event()

    def search() -> None:
        with ray_session(1, None) as ready:
            ready()
            print("Tune", flush=True)
            inside.set()
            assert printed.wait(60)
        print("the result")

    with ThreadPoolExecutor(1) as searching:
        done = searching.submit(search)
        assert inside.wait(60)
        print("a cell", flush=True)
        printed.set()
        done.result()
    assert capsys.readouterr().out == "a cell\nthe result\n"


def test_more_gpus_than_this_machine_has_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "gpus_there", lambda: 1.0)
    for wanted, address in ((1.0, None), (0.0, None), (2.0, "auto")):  # a cluster may grow
        session.check_gpus(wanted, address)
    with pytest.raises(RequestError) as refusal:
        session.check_gpus(2.0, None)
    assert str(refusal.value) == (
        "--gpus-per-trial 2 is more than the 1 GPUs that Ray finds here: give less, or 0 for CPU; a search that began "
        "with them goes on where they are"
    )


@pytest.mark.parametrize(("gpus", "fits"), [(0.0, [False, True, True]), (0.5, [False, False, True])])
def test_a_worker_needs_a_processor_and_its_gpu_on_one_machine_that_is_there(
    gpus: float, fits: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A head without processors is no room: the search would wait, and not be told."""
    machines = [{"Alive": True, "Resources": {"GPU": 1.0}}, {"Alive": False, "Resources": {"CPU": 4.0, "GPU": 1.0}}]
    monkeypatch.setattr("ray.nodes", lambda: machines)
    found = [session.has_room(gpus)]
    for resources in ({"CPU": 1.0}, {"CPU": 4.0, "GPU": 0.5}):
        machines.append({"Alive": True, "Resources": resources})
        found.append(session.has_room(gpus))
    assert found == fits


def test_a_ray_that_has_no_such_name_tells_nothing_of_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is none that Ray promises."""
    monkeypatch.delattr("ray._private.worker._global_node")
    assert not session.has_ended()


def test_the_ray_of_a_notebook_or_of_another_search_is_left_alone() -> None:
    """It was shut down at the end of a search that could not even begin. And what fits on it is known, and what Tune
    left of a run in its folder, which stays for good, is deleted."""
    program = """
import pathlib
from cluster import session

def refused():
    try:
        with session.ray_session(1, None) as ready:
            ready()
    except session.RequestError as error:
        said.append(error)

said = []
with session.ray_session(1, None) as ready:
    refused()
    ready()
    import ray
    artifacts = pathlib.Path(ray._private.worker._global_node.get_session_dir_path(), "artifacts", "now")
    for run in ("mine", "another"):
        (artifacts / run / "working_dirs").mkdir(parents=True)
    session.drop_files("mine")
    said.append([run.name for run in artifacts.iterdir()])
ray.init("local", num_cpus=1, num_gpus=1, include_dashboard=False, _node_ip_address="127.0.0.1")
refused()
print(*said, sep="\\n")
print(ray.is_initialized(), [session.has_room(gpus) for gpus in (0, 0.5, 1, 2)])
"""
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        done = run(program, folder)
    assert done.stdout.splitlines() == [
        "another search runs in this process: wait for its end, or search in another process",
        "['another']",
        "this process uses Ray already: call ray.shutdown() first, or search in another process",
        "True [True, True, True, False]",
    ], done.stderr
