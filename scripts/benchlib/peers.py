"""How each server is told to do the same: keep-alive without a limit, no access log, one docroot."""

import os
import signal

from . import tools
from .world import SLOW_OPEN

# Descriptors and connections that each server must bear: 10,000 idle ones and
# some more in any one worker. The hard limit may be as low as 20,000.
CONNECTIONS = 10500
FILES = 19000


class Peer:
    """A server program, and how it is configured."""

    name = title = ""
    tools = []
    puts = False
    # Workers are processes, so that connections can be counted by worker.
    has_processes = True
    # Ends it at once.
    stop = signal.SIGTERM

    def is_there(self):
        return all(tools.has(tool) for tool in self.tools)

    def version(self):
        """Of the program, for the report's head."""
        raise NotImplementedError

    def command(self, world, place, port, workers, threads):
        """Its command line; what files it needs are made in `place`."""
        raise NotImplementedError

    def environment(self, helpers, is_slow):
        env = dict(os.environ)
        if is_slow:
            env["LD_PRELOAD"] = helpers["slow.so"]
            env["SLOW_OPEN"] = ",".join(f"{device}={us}" for device, us in SLOW_OPEN.items())
        return env


class Ours(Peer):
    puts = True
    stop = signal.SIGINT

    def __init__(self, name, binary, extra):
        self.name, self.title, self.binary, self.extra = name, name, binary, extra

    def is_there(self):
        return True

    def version(self):
        return tools.version([self.binary, "--version"])

    def command(self, world, place, port, workers, threads):
        # a pidfile of its own: beside it are the locks, which servers of one
        # docroot would share
        options = [f"--docroot={world.docroot}", f"--httplisten=127.0.0.1:{port}", f"--worker-processes={workers}",
                   f"--pidfile={place}/pid", f"--maxconns={workers * CONNECTIONS}"]
        if threads:
            options.append(f"--threads={threads}")
        return [self.binary] + options + self.extra


class Nginx(Peer):
    tools = ["nginx"]

    def __init__(self, name, title, lines, puts):
        self.name, self.title, self.lines, self.puts = name, title, lines, puts

    def version(self):
        return tools.version(["nginx", "-v"]).rpartition(": ")[2]

    def command(self, world, place, port, workers, threads):
        # as root, nginx would otherwise serve as nobody, who may not write here
        user = "user root;" if os.geteuid() == 0 else ""
        paths = " ".join(f"{kind}_temp_path {place};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        world.write(f"{place}/conf", f"""{user}
worker_processes {workers};
worker_rlimit_nofile {FILES};
daemon off;
pid {place}/pid;
error_log {place}/log;
events {{ worker_connections {CONNECTIONS}; }}
http {{
    access_log off;
    {self.lines}
    keepalive_requests 1000000000;
    keepalive_timeout 600;
    client_max_body_size 0;
    {paths}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        root {world.docroot};
        location /dev2/ {{ dav_methods PUT DELETE; create_full_put_path on; }}
    }}
}}
""".encode())
        return ["nginx", "-c", f"{place}/conf", "-p", place]


class Lighttpd(Peer):
    name = title = "lighttpd"
    tools = ["lighttpd", "/usr/lib/lighttpd/mod_webdav.so"]
    puts = True

    def version(self):
        return tools.version(["lighttpd", "-v"]).split(" ")[0]

    def command(self, world, place, port, workers, threads):
        # max-keep-alive-requests has 16 bits: a new connection each 65,535 requests;
        # connections may be half as many as descriptors
        world.write(f"{place}/conf", f"""
server.modules = ( "mod_webdav" )
server.document-root = "{world.docroot}"
server.bind = "127.0.0.1"
server.port = {port}
server.listen-backlog = 4096
server.max-worker = {workers}
server.max-connections = {FILES // 2}
server.max-fds = {FILES}
server.max-keep-alive-requests = 65535
server.max-keep-alive-idle = 600
server.max-request-size = 0
server.errorlog = "{place}/log"
server.upload-dirs = ( "{place}" )
$HTTP["url"] =~ "^/dev2/" {{ webdav.activate = "enable" }}
""".encode())
        return ["lighttpd", "-D", "-f", f"{place}/conf"]


class H2o(Peer):
    name = title = "h2o"
    tools = ["h2o"]
    has_processes = False

    def version(self):
        return tools.version(["h2o", "--version"]).replace("h2o version ", "h2o/")

    def command(self, world, place, port, workers, threads):
        user = "user: root" if os.geteuid() == 0 else ""
        world.write(f"{place}/conf", f"""{user}
num-threads: {workers}
max-connections: {2 * CONNECTIONS}
http1-request-timeout: 600
error-log: {place}/log
pid-file: {place}/pid
listen:
  host: 127.0.0.1
  port: {port}
hosts:
  default:
    paths:
      /:
        file.dir: {world.docroot}
""".encode())
        return ["h2o", "-m", "worker", "-c", f"{place}/conf"]


def known():
    """All peers by name, as options.PEERS has them."""
    cache = "open_file_cache max=20000 inactive=600s; open_file_cache_valid 600s;"
    return {peer.name: peer for peer in (
        Nginx("nginx", "nginx (defaults, sendfile on)", "sendfile on;", True),
        Nginx("nginx-ofc", "nginx + open_file_cache (may serve stale)", f"sendfile on; {cache}", False),
        Nginx("nginx-nosendfile", "nginx, sendfile off + open_file_cache", f"sendfile off; {cache}", False),
        Lighttpd(),
        H2o(),
    )}
