"""The hub from processes of their own: their settings, several at once, interrupted ones."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from jeffnet.weights import hub
from tests.hub_repository import FILE, NET, SOURCE, WEIGHTS, add, blobs
from tests.hub_server import TOKEN, Fault

# The module by itself: its package imports jax, a second for each process.
LOAD = f"""
import importlib.util, time
spec = importlib.util.spec_from_file_location('hub', {hub.__file__!r})
hub = importlib.util.module_from_spec(spec)
spec.loader.exec_module(hub)
"""


def start(server, home, program, **settings):
    """A fresh process with the hub library's settings in its environment, as users give them."""
    env = {name: value for name, value in os.environ.items() if not name.startswith('HF_')}
    env |= {'HF_ENDPOINT': server.url, 'HF_HOME': str(home), 'HF_HUB_DISABLE_TELEMETRY': '1', **settings}
    return subprocess.Popen(
        [sys.executable, '-c', LOAD + program], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


FETCH = f'print(hub.fetch("{NET}", "{FILE}"))'
TIMED = f"""
time.sleep = lambda seconds: None  # the library's pauses before it tries again
start = time.monotonic()
try:
    hub.fetch("{NET}", "{FILE}")
except ConnectionError as error:
    print(f'{{time.monotonic() - start:.2f}} {{error}}')
"""


def test_the_settings_of_the_hub_library_hold(server, tmp_path):
    add(server)
    add(server, 'owner/private', private=True)
    private = FETCH.replace(NET, 'owner/private')
    server.add('owner/slow', {FILE: WEIGHTS})
    server.faults['slow/resolve/main/' + FILE] = Fault(stall=-1, methods=('HEAD',))
    server.add('owner/halting', {FILE: WEIGHTS})
    server.faults['halting/resolve/main/' + FILE] = Fault(stall=100)
    started = [
        # The longest first. A bar is for terminals; TQDM_POSITION=-1 asks for it elsewhere.
        start(server, tmp_path / 'a', TIMED.replace(NET, 'owner/halting'), HF_HUB_DOWNLOAD_TIMEOUT='1'),
        start(server, tmp_path / 'b', TIMED.replace(NET, 'owner/slow'), HF_HUB_ETAG_TIMEOUT='1'),
        start(server, tmp_path / 'c', TIMED, HF_ENDPOINT='http://127.0.0.1:9'),
        start(server, tmp_path / 'home', FETCH, TQDM_POSITION='-1'),
        start(server, tmp_path / 'd', private, HF_HUB_CACHE=str(tmp_path / 'other'), HF_TOKEN=TOKEN,
              TQDM_POSITION='-1', HF_HUB_DISABLE_PROGRESS_BARS='1'),
    ]  # fmt: skip
    (halting, _), (slow, _), (refused, _), (home, bar), (other, no_bar) = [p.communicate(timeout=60) for p in started]
    assert home.startswith(str(tmp_path / 'home' / 'hub' / 'models--owner--net')) and FILE in bar and '100%' in bar
    assert other.startswith(str(tmp_path / 'other' / 'models--owner--private')) and not no_bar
    assert 6 <= float(halting.split()[0]) < 15 and 'HF_HUB_DOWNLOAD_TIMEOUT (1 s)' in halting
    assert 1 <= float(slow.split()[0]) < 5 and 'HF_HUB_ETAG_TIMEOUT (1 s)' in slow
    assert float(refused.split()[0]) < 3 and 'no connection to http://127.0.0.1:9' in refused
    server.requests.clear()
    assert start(server, tmp_path / 'home', FETCH, HF_HUB_OFFLINE='1').communicate(timeout=60)[0] == home
    assert not server.requests


def test_processes_that_fetch_the_same_file_at_once(server, tmp_path):
    commit = add(server)
    server.faults[FILE] = Fault(delay=1.0)
    go = tmp_path / 'go'
    program = f"""
import huggingface_hub.file_download, pathlib
print('ready', flush=True)
while not pathlib.Path({str(go)!r}).exists():
    time.sleep(0.01)
print(hub.folder("{SOURCE}"))
"""
    started = [start(server, tmp_path / 'home', program) for _ in range(2)]
    for process in started:
        assert process.stdout.readline() == 'ready\n'
    go.touch()
    outputs = [process.communicate(timeout=60) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    folder = Path(outputs[0][0].strip())
    assert outputs[1][0].strip() == str(folder) and folder.name == commit
    assert (folder / FILE).read_bytes() == WEIGHTS
    names = [Path(name).name for name in blobs(tmp_path / 'home' / 'hub')]
    assert len(names) == 2 and hashlib.sha256(WEIGHTS).hexdigest() in names
    asked = [r.method for r in server.requests if r.path.endswith(FILE)]
    # A process that finds the file current asks once; twice says that neither waited for the other to be done.
    assert asked.count('HEAD') == 4 and asked.count('GET') == 1


def test_an_interrupted_process_leaves_nothing(server, tmp_path):
    add(server)
    server.faults[FILE] = Fault(stall=1000)
    # A shell's background jobs start with SIGINT ignored, and so would this process.
    listening = 'import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n'
    process = start(server, tmp_path, listening + FETCH)
    deadline = time.monotonic() + 30
    while not server.asked('GET', FILE) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.asked('GET', FILE)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=30)
    assert process.returncode != 0 and 'KeyboardInterrupt' in error
    assert not blobs(tmp_path / 'hub')


def test_the_hub_library_is_imported_when_it_is_needed():
    program = "import sys, jeffnet.weights.hub; print('huggingface_hub' in sys.modules)"
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
    assert done.stdout == 'False\n'


def test_an_upload_that_finds_no_xet_storage_says_how_to_go_without(server, tmp_path):
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'folder' / FILE).write_bytes(WEIGHTS)
    program = f'hub.upload({str(tmp_path / "folder")!r}, "owner/new", message="m")'
    error = start(server, tmp_path / 'home', program, HF_TOKEN=TOKEN).communicate(timeout=60)[1]
    assert 'ConnectionError: upload to owner/new: the xet storage fails' in error and 'HF_HUB_DISABLE_XET=1' in error
