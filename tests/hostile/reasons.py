"""Why the agent serves what HAProxy or Envoy refuses: (class, case) -> the reason."""

_OLD = (
    "Envoy takes HTTP/1.0 only where it is told to; old probes and ab speak it, and it goes on as HTTP/1.1 with a Host"
)
_NO_UPGRADE = (
    "Envoy and HAProxy refuse upgrades that they do not know; a server may ignore Upgrade (RFC 9110 7.8), and it goes"
)
_TUNNEL = "any upgrade goes through and the predictor judges it; there is a tunnel only once it has answered 101"
_UNKNOWN = (
    "unknown types are discarded wherever they come (RFC 9113 5.5); HAProxy takes one on an idle stream for an error"
)
_LINES = "request lines that others read differently"
_FRAMES = "tiny frames, padding, frames to come"

REASONS: dict[tuple[str, str], str] = {
    (
        "trailers of a request",
        "trailers that may not come late are dropped",
    ): "a recipient may drop them (RFC 9110 6.5.1); the predictor never sees them",
    (
        "authorities that disagree",
        "an absolute target of a query alone",
    ): "an empty path is / (RFC 9110 4.2.3), and so it is forwarded",
    ("authorities that disagree", "HTTP/1.0 with an absolute target"): _OLD,
    (_LINES, "OPTIONS *"): "RFC 9110 9.3.7; Envoy is given no route for it here",
    (_LINES, "HTTP/1.0 with Host"): _OLD,
    (_LINES, "HTTP/1.0 with keep-alive"): _OLD,
    (_LINES, "HTTP/1.0 goes on as HTTP/1.1"): _OLD,
    ("Expect", "Expect in HTTP/1.0"): _OLD,
    ("pipelines", "a request behind HTTP/1.0"): _OLD,
    ("upgrades and the body behind them", "an upgrade with a body is served as what it is"): _NO_UPGRADE,
    ("upgrades and the body behind them", "an upgrade with a chunked body"): _NO_UPGRADE,
    ("upgrades and the body behind them", "an upgrade"): _TUNNEL,
    ("upgrades and the body behind them", "an upgrade among other options"): _TUNNEL,
    ("h2c by upgrade", "h2c among other protocols"): _NO_UPGRADE,
    (
        "hop-by-hop abuse",
        "Connection cannot remove what others rely on",
    ): "the fields stay, so there is nothing to gain; HAProxy does the same, Envoy refuses",
    ("header bombs", "as much as is allowed"): "--max-head is 64 KiB, as Envoy's 60; HAProxy's buffer is 16 KiB",
    (
        _FRAMES,
        "1-byte DATA with 255 bytes of padding",
    ): "allowed (RFC 9113 6.1), counted against the windows, and no dearer than as many bytes of data",
    **{(_FRAMES, f"a frame of type {kind}"): _UNKNOWN for kind in ("0xb", "0xd", "0xf", "0xff")},
}
