"""A Hugging Face hub on this machine, for tests: what its client library asks of it, and faults on demand.

It offers no xet storage: downloads then are plain HTTP by themselves, while uploads need HF_HUB_DISABLE_XET=1 where
hf_xet is installed.
"""

import base64
import hashlib
import json
import re
import socket
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Lock, Thread
from urllib.parse import unquote, urlsplit

TOKEN = 'hf_of_the_tests'
LARGE = ('.safetensors', '.bin')  # kept in large file storage, as the hub's own .gitattributes has it


@dataclass(frozen=True)
class Blob:
    """The content of a file."""

    data: bytes
    large: bool

    @property
    def etag(self) -> str:
        """The hub's name for the content: sha256 of a large file, git's sha1 of any other."""
        if self.large:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b'blob %d\0' % len(self.data) + self.data).hexdigest()


@dataclass
class Repository:
    """Branches, and the files of every commit."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, Blob]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, Blob], branch: str = 'main') -> str:
        """Adds files on top of a branch; returns the commit."""
        parent = self.branches.get(branch, '')
        tree = {**self.commits.get(parent, {}), **files}
        listed = parent + str(len(self.commits)) + ''.join(f'{name} {blob.etag}' for name, blob in sorted(tree.items()))
        new = hashlib.sha1(listed.encode()).hexdigest()
        self.commits[new] = tree
        self.branches[branch] = new
        return new

    def find(self, revision: str) -> str | None:
        """The commit that a branch or a commit names."""
        return self.branches.get(revision, revision if revision in self.commits else None)


@dataclass
class Fault:
    """What goes wrong with the requests for one path; `times` counts the requests it spoils, None for all."""

    status: int | None = None  # answered in place of the file
    headers: dict[str, str] = field(default_factory=dict)  # that go with `status`
    cut: int | None = None  # the connection closes after so many bytes of the body; -1: without any answer
    reset: bool = False  # it is reset in place of closed
    stall: int | None = None  # nothing follows after so many bytes of the body; -1: not even headers
    data: bytes | None = None  # sent in place of the content, announced with the true content's names
    size: int | None = None  # announced in place of the true size
    delay: float = 0.0  # seconds before the answer
    unranged: bool = False  # asked for a part, the whole is sent
    methods: tuple[str, ...] = ('GET',)
    times: int | None = None


@dataclass(frozen=True)
class Request:
    """One request that arrived."""

    method: str
    path: str
    headers: dict[str, str]  # names in lower case
    body: bytes


class HubServer:
    """Serves repositories on 127.0.0.1 while its `with` block lasts."""

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.faults: dict[str, Fault] = {}  # by path, as `Request.path` has it, or the end of one
        self.requests: list[Request] = []
        self.storage: dict[str, bytes] = {}  # uploaded large files by sha256
        self.closing = Event()
        self.lock = Lock()
        self.connections: set[socket.socket] = set()
        self.errors: list[BaseException] = []  # of the server itself
        server = self

        class Bound(Handler):
            hub = server

        self.http = Http(self, Bound)
        self.url = f'http://127.0.0.1:{self.http.server_address[1]}'

    def __enter__(self):
        Thread(target=self.http.serve_forever, kwargs={'poll_interval': 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.close()
        assert not self.errors, self.errors

    def close(self):
        """Ends all connections and refuses new ones."""
        self.closing.set()
        self.http.shutdown()
        self.http.server_close()
        for connection in list(self.connections):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def add(self, repo: str, files: dict[str, bytes], *, private=False, gated=False, branch: str = 'main') -> str:
        """Commits files to a repository, made if need be; returns the commit."""
        made = self.repositories.setdefault(repo, Repository(private, gated))
        return made.commit({name: Blob(data, name.endswith(LARGE)) for name, data in files.items()}, branch)

    def asked(self, method: str, end: str = '') -> list[Request]:
        """The requests of a method whose path ends so."""
        return [r for r in self.requests if r.method == method and r.path.endswith(end)]

    def fault(self, request: Request) -> Fault | None:
        """The fault that spoils this request, counted."""
        with self.lock:
            for end, fault in self.faults.items():
                if request.path.endswith(end) and request.method in fault.methods and fault.times != 0:
                    if fault.times:
                        fault.times -= 1
                    return fault
        return None


class Http(ThreadingHTTPServer):
    """Keeps its errors, but for clients that went away."""

    def __init__(self, hub: HubServer, handler: type[BaseHTTPRequestHandler]):
        super().__init__(('127.0.0.1', 0), handler)
        self.hub = hub

    def handle_error(self, request, client_address):
        error = sys.exception()
        if error is not None and not isinstance(error, ConnectionError):
            self.hub.errors.append(error)


class Handler(BaseHTTPRequestHandler):
    """One connection of a client."""

    hub: HubServer
    protocol_version = 'HTTP/1.1'
    timeout = 60
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        self.hub.connections.add(self.connection)

    def finish(self):
        self.hub.connections.discard(self.connection)
        with suppress(OSError):  # the client may be gone
            super().finish()

    def log_message(self, format, *args):
        """Keeps the output of the tests quiet."""

    def respond(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        if 'chunked' in self.headers.get('Transfer-Encoding', ''):
            body = self.read_chunks()
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, unquote(urlsplit(self.path).path), headers, body)
        self.hub.requests.append(request)
        self.problem = self.hub.fault(request) or Fault()
        self.hub.closing.wait(self.problem.delay)
        if self.problem.status:
            return self.answer(self.problem.status, self.problem.headers)
        if -1 in (self.problem.stall, self.problem.cut):
            return self.give_up()
        for method, pattern, function in ROUTES:
            # The path as sent: a revision such as refs/pr/1 has its slashes quoted.
            match = re.fullmatch(pattern, urlsplit(self.path).path)
            if match and self.command in method:
                return function(self, *(unquote(group) for group in match.groups()), **({'body': body} if body else {}))
        return self.answer(404)

    do_GET = do_HEAD = do_POST = do_PUT = respond

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b''.join(parts)

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b''):
        self.send_response(status)
        for name, value in {'Content-Length': str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == 'HEAD':
            return
        limits = [n for n in (self.problem.cut, self.problem.stall) if n is not None]
        self.wfile.write(body[: min(limits, default=len(body))])
        if limits:
            self.give_up()

    def give_up(self):
        """Says no more: until the server closes for a stall, else by the end of the connection."""
        if self.problem.stall is not None:
            self.hub.closing.wait()
        if self.problem.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
            self.connection.close()
        self.close_connection = True

    def answer_json(self, value, status: int = 200):
        self.answer(status, {'Content-Type': 'application/json'}, json.dumps(value).encode())

    def refuse(self, status: int, code: str, **headers: str):
        named = {name.replace('_', '-'): value for name, value in headers.items()}
        self.answer(status, {'X-Error-Code': code, 'X-Error-Message': f'{code} (the server says)', **named})

    def known(self) -> bool:
        return self.headers.get('Authorization') == f'Bearer {TOKEN}'

    def admitted(self, repo: str) -> Repository | None:
        """The repository if this client may read it, else None after the refusal."""
        if self.headers.get('Authorization') and not self.known():
            self.answer(401, {'X-Error-Message': 'Invalid credentials in Authorization header'})
            return None
        found = self.hub.repositories.get(repo)
        if found is None or (found.private and not self.known()):
            self.refuse(404 if self.known() else 401, 'RepoNotFound')
        elif found.gated:
            self.refuse(403 if self.known() else 401, 'GatedRepo')
        else:
            return found
        return None

    def resolve(self, repo: str, revision: str, name: str):
        """A file of a repository, whole or from an offset on."""
        found = self.admitted(repo)
        if found is None:
            return None
        commit = found.find(revision)
        if commit is None:
            return self.refuse(404, 'RevisionNotFound')
        blob = found.commits[commit].get(name)
        if blob is None:
            return self.refuse(404, 'EntryNotFound', X_Repo_Commit=commit)
        size = str(len(blob.data) if self.problem.size is None else self.problem.size)
        headers = {'ETag': f'"{blob.etag}"', 'X-Repo-Commit': commit, 'Accept-Ranges': 'bytes', 'X-Linked-Size': size}
        if blob.large:
            headers |= {'ETag': '"of-the-pointer"', 'X-Linked-Etag': f'"{blob.etag}"'}
        data = blob.data if self.problem.data is None else self.problem.data
        if self.command == 'HEAD':
            return self.answer(200, {**headers, 'Content-Length': size})
        part = re.fullmatch(r'bytes=(\d+)-', self.headers.get('Range', ''))
        if not part or self.problem.unranged:
            return self.answer(200, headers, data)
        start = int(part[1])
        headers['Content-Range'] = f'bytes {start}-{len(data) - 1}/{len(data)}'
        return self.answer(206, headers, data[start:])

    def info(self, repo: str, revision: str = 'main'):
        found = self.admitted(repo)
        if found is None:
            return None
        commit = found.find(revision)
        if commit is None:
            return self.refuse(404, 'RevisionNotFound')
        siblings = [{'rfilename': name} for name in found.commits[commit]]
        return self.answer_json({'id': repo, 'sha': commit, 'private': found.private, 'siblings': siblings})

    def create(self, body: bytes):
        if not self.known():
            return self.answer(401, {'X-Error-Message': 'Invalid credentials in Authorization header'})
        asked = json.loads(body)
        repo = f'{asked["organization"]}/{asked["name"]}'
        if repo in self.hub.repositories:
            return self.answer_json({'error': 'the name is taken', 'url': f'{self.hub.url}/{repo}'}, 409)
        self.hub.repositories[repo] = Repository(private=asked.get('visibility') == 'private')
        self.hub.repositories[repo].commit({'.gitattributes': Blob(b'*.safetensors filter=lfs\n', False)})
        return self.answer_json({'url': f'{self.hub.url}/{repo}'})

    def writable(self, repo: str, revision: str) -> Repository | None:
        """The repository if this client may write to the branch, else None after the refusal."""
        found = self.admitted(repo)
        if found is None:
            return None
        if self.known() and revision in found.branches:
            return found
        if self.known():
            self.refuse(404, 'RevisionNotFound')
        else:
            self.answer(403)
        return None

    def preupload(self, repo: str, revision: str, body: bytes):
        """Says how each file of a commit is to be sent."""
        found = self.writable(repo, revision)
        if found is None:
            return None
        there = found.commits[found.branches[revision]]
        files = [
            {
                'path': path,
                'uploadMode': 'lfs' if path.endswith(LARGE) else 'regular',
                'shouldIgnore': False,
                'oid': there[path].etag if path in there else None,
            }
            for path in (file['path'] for file in json.loads(body)['files'])
        ]
        return self.answer_json({'files': files})

    def batch(self, repo: str, body: bytes):
        """Says where large files are to be put; those already there need not be."""
        if self.admitted(repo) is None:
            return None
        objects = json.loads(body)['objects']
        for each in objects:
            if each['oid'] not in self.hub.storage:
                upload = {'href': f'{self.hub.url}/storage/{each["oid"]}', 'header': {}}
                each['actions'] = {'upload': upload, 'verify': {'href': f'{self.hub.url}/verify', 'header': {}}}
        return self.answer_json({'transfer': 'basic', 'objects': objects})

    def store(self, oid: str, body: bytes = b''):
        if hashlib.sha256(body).hexdigest() != oid:
            return self.answer(400)
        self.hub.storage[oid] = body
        return self.answer(200)

    def verify(self, body: bytes):
        asked = json.loads(body)
        there = len(self.hub.storage.get(asked['oid'], b'')) == asked['size']
        return self.answer(200 if there else 404)

    def commit(self, repo: str, revision: str, body: bytes):
        """A commit as one JSON object a line: its header, small files with their content, large ones by sha256."""
        found = self.writable(repo, revision)
        if found is None:
            return None
        files = {}
        for line in map(json.loads, body.splitlines()):
            value = line['value']
            if line['key'] == 'file':
                files[value['path']] = Blob(base64.b64decode(value['content']), False)
            elif line['key'] == 'lfsFile':
                files[value['path']] = Blob(self.hub.storage[value['oid']], True)
        new = found.commit(files, revision)
        return self.answer_json({'commitUrl': f'{self.hub.url}/{repo}/commit/{new}', 'commitOid': new})

    def check_card(self, body: bytes):
        self.answer_json({'errors': [], 'warnings': []})


ROUTES = [
    ('HEAD GET', r'/([^/]+/[^/]+)/resolve/([^/]+)/(.+)', Handler.resolve),
    ('GET', r'/api/models/([^/]+/[^/]+)', Handler.info),
    ('GET', r'/api/models/([^/]+/[^/]+)/revision/([^/]+)', Handler.info),
    ('POST', '/api/repos/create', Handler.create),
    ('POST', '/api/validate-yaml', Handler.check_card),
    ('POST', r'/api/models/([^/]+/[^/]+)/preupload/([^/]+)', Handler.preupload),
    ('POST', r'/api/models/([^/]+/[^/]+)/commit/([^/]+)', Handler.commit),
    ('POST', r'/([^/]+/[^/]+)\.git/info/lfs/objects/batch', Handler.batch),
    ('PUT', '/storage/([0-9a-f]{64})', Handler.store),
    ('POST', '/verify', Handler.verify),
]
