#!/usr/bin/env bash
# dicomweb-client 0.61.2: the Host header of GETs and of uploads of at most chunk_size bytes lacks
# the port of the URL, though HTTP (RFC 9110, section 7.2) asks for it where it is not the scheme's
# own; uploads in chunks carry it. Matters where a server listens on a port of its own: absolute
# links it builds from Host (as in Retrieve URL) lead to the wrong port, and a proxy that chooses by
# name and port treats small and large uploads differently. 28 November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dicomweb-client==0.61.2 numpy==2.4.6 pydicom==3.0.2 \
    requests==2.34.2
cd "$work"
venv/bin/python - <<'PYTHON'
import http.server
import threading

import pydicom
from dicomweb_client import DICOMwebClient
from pydicom.data import get_testdata_file

hosts = []


class Server(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_GET(self):
        hosts.append(self.headers["Host"])
        self.send_response(200)
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"[]" if self.command == "GET" else b"{}")

    def do_POST(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        else:
            self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
host = f"127.0.0.1:{server.server_port}"
client = DICOMwebClient(f"http://{host}/dw")
image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
client.search_for_series()
client.store_instances([image])
client.set_chunk_size(10_000)
client.store_instances([image])
shown = [name.replace(str(server.server_port), "PORT") for name in hosts]
print("Host of a search, an upload, an upload in chunks:", shown)
assert hosts == ["127.0.0.1", "127.0.0.1", host]
PYTHON
