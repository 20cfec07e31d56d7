"""The predictor behind every proxy: one nginx process that answers at once, so that the proxy is what is measured."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .load import exchange
from .payload import SMALL, SMALL_ANSWER, TENSOR_ANSWER, TENSOR_ANSWER_HEADER
from .process import BenchError, Child, Command, Cores, free_ports, poll_until

# `return` answers before it has read the body, as no model server does. So an upload goes through proxy_pass with
# request buffering: nginx reads all of it into memory, then asks its own second server, without a body, for the answer.
# X-Received is what the request measured on arrival, head included: a proxy that loses bytes cannot reach it.
_CONFIG = """
daemon off;
master_process off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log crit;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  server_tokens off;
  keepalive_requests 1000000000;
  keepalive_timeout 300s;
  client_max_body_size 0;
  client_body_buffer_size 4m;
  client_body_temp_path {directory}/body;
  proxy_temp_path {directory}/proxy;
  fastcgi_temp_path {directory}/fastcgi;
  uwsgi_temp_path {directory}/uwsgi;
  scgi_temp_path {directory}/scgi;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=8 inactive=600s;
  default_type application/json;
  upstream answer {{ server unix:{directory}/answer.sock; keepalive 64; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{ return 200 '{answer}'; }}
    location = /v2/models/upload/infer {{
      proxy_pass http://answer;
      proxy_http_version 1.1;
      proxy_pass_request_body off;
      proxy_set_header Content-Length "";
      proxy_set_header Connection "";
      add_header X-Received $request_length;
    }}
    location = /v2/models/download/infer {{ error_page 405 =200 /tensor; return 405; }}
    location = /tensor {{
      internal;
      alias {directory}/tensor.bin;
      default_type application/octet-stream;
      add_header Inference-Header-Content-Length {header_length};
    }}
  }}
  server {{ listen unix:{directory}/answer.sock; location / {{ return 200 '{answer}'; }} }}
}}
"""

_START_S = 10.0


@contextmanager
def nginx(program: str, cores: Cores, directory: Path) -> Iterator[int]:
    """Run the backend; yields its port. Raises BenchError if it does not start."""
    (port,) = free_ports(1)
    (directory / "tensor.bin").write_bytes(TENSOR_ANSWER)
    config = directory / "nginx.conf"
    config.write_text(
        _CONFIG.format(directory=directory, port=port, answer=SMALL_ANSWER.decode(), header_length=TENSOR_ANSWER_HEADER)
    )
    command = Command([program, "-e", "stderr", "-p", str(directory), "-c", str(config)], {})
    with Child(command, cores.client, directory / "nginx.err") as child:
        deadline = time.monotonic() + _START_S
        while True:
            try:
                exchange(port, SMALL)
            except (OSError, BenchError):
                poll_until(deadline, child)
            else:
                break
        yield port
