"""Every flag once: its name, what it accepts, its default, its help, and the commands that take it."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from loadgen.payload import DATATYPES
from loadgen.schedule import MAX_ARRIVALS, Arrivals
from loadgen.values import (
    CONCURRENCY,
    DURATION_S,
    MAX_STEPS,
    RATE,
    TIMEOUT_S,
    Protocol,
    Spread,
    duration_within,
    integer,
    number,
    one_of,
    parse_address,
    parse_callers,
    parse_cancel,
    parse_file,
    parse_folder,
    parse_header,
    parse_models,
    parse_moment,
    parse_output,
    parse_rates,
    parse_record,
    parse_shape,
    parse_share,
    parse_slo,
    parse_spread,
    parse_steps,
    parse_tag,
    parse_text,
    parse_there,
    parse_url,
    words_of,
)


@dataclass(frozen=True, slots=True)
class Flag:
    """`parse` is None for a switch; `many` flags may be repeated. `group` is a heading of the help."""

    name: str
    short: str
    metavar: str
    help: str
    group: str
    parse: Callable[[str], Any] | None
    accepted: str
    commands: frozenset[str]
    default: Any = None
    many: bool = False
    required: bool = False

    @property
    def field(self) -> str:
        """Its name as an attribute."""
        return self.name.lower().removeprefix("--").replace("-", "_")


_ALL = frozenset({"run", "sweep", "search", "tune", "replay", "inspect"})
_LOADS = _ALL - {"inspect"}
_LEVELS = frozenset({"sweep", "search", "tune"})
_RUN = frozenset({"run"})
_REPLAY = frozenset({"replay"})
_TUNE = frozenset({"tune"})
_DURATION = duration_within(DURATION_S)

POSITIONAL = (
    Flag("URL", "", "URL", "http, https, grpc or grpcs://HOST[:PORT][/PREFIX]", "", parse_url,
         "http, https, grpc or grpcs://HOST[:PORT][/PREFIX]", _ALL, required=True),
    Flag("TRACE", "", "TRACE", "a trace: lines of {\"t\": seconds, ...} or of an access log", "", parse_file,
         "a file", _REPLAY, required=True),
)  # fmt: skip

_TARGET = (
    Flag("--model", "-m", "NAME", "model to send to; weights such as a=3,b=1 mix models (required but for post)",
         "target", parse_models, "a model name, or weights such as a=3,b=1", _ALL, ()),
    Flag("--model-version", "", "V", "version of the model (default: the server's choice)",
         "target", parse_text, "a version", _ALL, ""),
    Flag("--protocol", "-i", "P", "http, grpc (from the URL's scheme), grpc-stream, v1, openai or post",
         "target", Protocol, ", ".join(Protocol), _ALL),
    Flag("--path", "", "PATH", "the path to post to instead of the protocol's own",
         "target", parse_text, "a path", _ALL, ""),
    Flag("--header", "-H", "NAME: VALUE", "a header to add, or to replace; repeatable",
         "target", parse_header, "'NAME: VALUE', and none that frames the request", _ALL, (), many=True),
    Flag("--authority", "", "HOST", "the Host (:authority) to ask for, such as that of an ingress",
         "target", parse_text, "a host", _ALL, ""),
    Flag("--ca", "", "FILE", "certificates to trust instead of the system's", "target", parse_file, "a file", _ALL),
    Flag("--cert", "", "FILE", "own certificate", "target", parse_file, "a file", _ALL),
    Flag("--key", "", "FILE", "its key", "target", parse_file, "a file", _ALL),
    Flag("--insecure", "", "", "trust any certificate", "target", None, "", _ALL, default=False),
)  # fmt: skip

_LOAD = (
    Flag("--concurrency", "-c", "N", "closed loop: N callers, each sends when its last request has ended (default: 1)",
         "load", lambda text: (integer(*CONCURRENCY)(text),),
         "a whole number from {} to {}".format(*CONCURRENCY), _RUN, ()),
    Flag("--concurrency", "-c", "LEVELS", "closed loop: 1:64, 8:64:8 or 1,2,4 callers (default: 1:64)",
         "load", parse_callers, "LOW:HIGH[:STEP] or N,N,... from {} to {}".format(*CONCURRENCY), _LEVELS, ()),
    Flag("--rate", "-q", "R", "open loop: R requests a second, whatever the target does",
         "load", lambda text: (number(RATE)(text),),
         f"requests per second from {RATE[0]:g} to {RATE[1]:g}", _RUN, ()),
    Flag("--rate", "-q", "LEVELS", "open loop: 50:500, 50:500:50 or 50,100,200 requests a second",
         "load", parse_rates, f"LOW:HIGH[:STEP] or R,R,... from {RATE[0]:g} to {RATE[1]:g}",
         frozenset({"sweep", "search"}), ()),
    Flag("--steps", "", "R:DUR,...", "open loop with a rate that changes: 100:5s,300:5s, or 0-300:30s for a ramp",
         "load", parse_steps, f"RATE[-RATE]:DURATION[,...], rates from 0 to {RATE[1]:g}, at most {MAX_STEPS}",
         _RUN, ()),
    Flag("--arrivals", "", "KIND", "open loop: poisson (default), constant, gamma:CV or file:F (a time in s a line)",
         "load", parse_spread, "poisson, constant, gamma:CV or file:F", frozenset({"run", "sweep", "search"}),
         Spread(Arrivals.POISSON)),
    Flag("--duration", "-z", "DUR", "how long to send (default: 10s, or until --requests were sent)",
         "load", _DURATION, "a duration from 100ms to 24h", _RUN, 10.0),
    Flag("--requests", "-n", "N", "how many requests to send at most",
         "load", integer(1, MAX_ARRIVALS), f"a whole number from 1 to {MAX_ARRIVALS}", _RUN, math.inf),
    Flag("--ramp", "", "DUR", "come to the full load evenly in this time (default: 0s)",
         "load", duration_within((0.0, 3600.0)), "a duration up to 1h", _RUN, 0.0),
    Flag("--speed", "", "X", "play the trace X times as fast (default: 1)",
         "load", number((0.001, 1000.0)), "a number from 0.001 to 1000", _REPLAY, 1.0),
    Flag("--max-in-flight", "", "N", "open loop: beyond it arrivals wait, and the run is marked (default: 10000)",
         "load", integer(1, 100_000), "a whole number from 1 to 100000", _LOADS, 10_000),
    Flag("--connections", "", "N", "how many connections at most (default: as needed)",
         "load", integer(1, 10_000), "a whole number from 1 to 10000", _LOADS, 0),
    Flag("--streams", "", "N", "gRPC: calls that share a connection (default: 64)",
         "load", integer(1, 10_000), "a whole number from 1 to 10000", _LOADS, 64),
    Flag("--seed", "", "N", "repeat the arrivals and inputs of an earlier run (default: random, printed)",
         "load", integer(0, 2**32 - 1), f"a whole number from 0 to {2**32 - 1}", _ALL),
    Flag("--workers", "-w", "N", "processes that share the load (default: 1, enough for some 50,000/s)",
         "load", integer(1, 64), "a whole number from 1 to 64", _RUN, 1),
    Flag("--listen", "", "HOST:PORT", "with --workers: not processes here but those that `worker --join` sends there",
         "load", parse_address, "HOST:PORT", _RUN),
    Flag("--start-at", "", "TIME", "when to begin, for generators that do not know of each other: "
         "2026-01-01T12:00:00Z, or seconds since 1970",
         "load", parse_moment, "a time such as 2026-01-01T12:00:00Z", _RUN | _REPLAY),
)  # fmt: skip

_DATA = (
    Flag("--input-data", "", "KIND", "random, zero, a FILE of requests, or a folder with a file for each input "
         "(default: random)", "data", parse_text, "random, zero, a file or a folder", _ALL, "random"),
    Flag("--pool", "", "N", "distinct bodies, encoded before the clock starts (default: 64, fewer of large ones)",
         "data", integer(1, 100_000), "a whole number from 1 to 100000", _ALL, 0),
    Flag("--shape", "", "NAME:DIMS[:TYPE]", "an input's shape, such as input-0:3,224,224:FP32; repeatable; default: "
         "metadata", "data", parse_shape, f"NAME:DIM,DIM[:DATATYPE] with DATATYPE one of {', '.join(DATATYPES)}",
         _ALL, (), many=True),
    Flag("--batch", "-b", "N", "the first dimension of every input, where the metadata leaves it open (default: 1)",
         "data", integer(1, 100_000), "a whole number from 1 to 100000", _ALL, 1),
    Flag("--string-length", "", "N", "characters of a BYTES element, or of a prompt (default: 16)",
         "data", integer(0, 1_000_000), "a whole number from 0 to 1000000", _ALL, 16),
    Flag("--max-tokens", "", "N", "openai: how long an answer may be (default: 64)",
         "data", integer(1, 1_000_000), "a whole number from 1 to 1000000", _ALL, 64),
    Flag("--tensor-format", "", "F", "json, binary, or auto (default): binary over gRPC, and from 1,000 elements on "
         "where the server knows it",
         "data", one_of("auto", "json", "binary"), "auto, json or binary", _ALL, "auto"),
    Flag("--shm", "", "KIND", "system: inputs in memory shared with Triton, which must be on this host (default: none)",
         "data", one_of("none", "system"), "none or system", _ALL, "none"),
    Flag("--data", "-d", "TEXT", "post: the body", "data", parse_text, "a text", _ALL, ""),
    Flag("--data-file", "-D", "FILE", "post: a file with the body", "data", parse_file, "a file", _ALL),
)  # fmt: skip

_WINDOWS = (
    Flag("--warmup", "", "DUR", "time at each level that is not counted (default: 2s; run: 0s)",
         "levels", duration_within((0.0, 3600.0)), "a duration up to 1h", _LEVELS, 2.0),
    Flag("--warmup", "", "DUR", "time before the run that is not counted (default: 0s)",
         "levels", duration_within((0.0, 3600.0)), "a duration up to 1h", _RUN, 0.0),
    Flag("--window", "", "DUR", "what stability is judged by, and the step of plots over time (default: 1s)",
         "levels", duration_within((0.05, 60.0)), "a duration from 50ms to 1m", _LOADS, 1.0),
    Flag("--stable", "", "SHARE", "a level is stable when four windows vary by less (default: 3%)",
         "levels", parse_share, "a share such as 3%", _LEVELS, 0.03),
    Flag("--max-level-time", "", "DUR", "when to give up on a level that is not (default: 30s)",
         "levels", _DURATION, "a duration from 100ms to 24h", _LEVELS, 30.0),
    Flag("--cooldown", "", "DUR", "pause between levels (default: 1s)",
         "levels", duration_within((0.0, 600.0)), "a duration up to 10m", _LEVELS, 1.0),
)  # fmt: skip

_VERDICT = (
    Flag("--slo", "", "EXPR", "such as 'p99<250ms', 'mean<20ms', 'ttft<1s', 'errors<1%', 'shed<5%', 'rps>300'; "
         "repeatable", "verdict", parse_slo, "pNN, mean, max, ttft < DURATION; errors, shed, timeouts < SHARE; rps > N",
         _LOADS, (), many=True),
    Flag("--fail-on", "", "WORDS",
         "what changes the exit code: slo, unstable, generator or none (default: slo,generator)",
         "verdict", words_of("slo", "unstable", "generator"), "slo, unstable, generator with commas, or none",
         _LOADS, frozenset({"slo", "generator"})),
)  # fmt: skip

_BEHAVIOUR = (
    Flag("--timeout", "-t", "DUR", "a caller's patience, from the intended send time of an attempt (default: 10s)",
         "caller", duration_within(TIMEOUT_S), "a duration from 1ms to 1h", _ALL, 10.0),
    Flag("--cancel", "", "SHARE@DUR", "take back a share of the requests after a time, such as 5%@100ms",
         "caller", parse_cancel, "SHARE@DURATION", _LOADS, (0.0, 0.0)),
    Flag("--retry", "", "N", "try a refused request again, at most N times (default: 0)",
         "caller", integer(0, 20), "a whole number from 0 to 20", _LOADS, 0),
    Flag("--retry-after", "", "WORD", "honour Retry-After and grpc-retry-pushback-ms, or ignore (default: honour)",
         "caller", one_of("honour", "ignore"), "honour or ignore", _LOADS, "honour"),
)  # fmt: skip

_SERVER = (
    Flag("--scrape", "", "URL", "metrics of Headgate or Triton to read before and after each level; repeatable",
         "server", parse_url, "http://HOST[:PORT][/PATH]", _LEVELS | _RUN, (), many=True),
    Flag("--proof", "", "HOW", "open-loop proof: through a Headgate that tune starts (gate), direct, none, or "
         "the URL of a running Headgate (default: gate where it can)", "tune", parse_text,
         "gate, direct, none or a URL",
         _TUNE, "auto"),
    Flag("--growth", "", "SHARE", "growth of the load per second that scaling must keep up with (default: 0.5%)",
         "tune", parse_share, "a share such as 1%", _TUNE, 0.005),
    Flag("--startup", "", "DUR", "how long a new replica takes until it serves (default: 30s)",
         "tune", duration_within((0.0, 3600.0)), "a duration up to 1h", _TUNE, 30.0),
    Flag("--preferred-batch", "", "N", "the predictor's batch size: the limit is a multiple of it (default: 1)",
         "tune", integer(1, 10_000), "a whole number from 1 to 10000", _TUNE, 1),
)  # fmt: skip

_OUTPUT = (
    Flag("--output", "-o", "DIR", "write result.json, levels.csv, report.html and more there "
         "(default: ./loadgen-TIME; run and replay: not)", "output", parse_folder, "a folder", _LOADS),
    Flag("--record", "", "WHICH", "requests and answers go into --output, for replay: none (default), sample:1% or all",
         "output", parse_record, "none, sample:SHARE or all", _RUN | _REPLAY, 0.0),
    Flag("--resume", "", "DIR", "go on with an interrupted command: the levels in its folder are not measured again",
         "output", parse_there, "the folder of a result", _LEVELS),
    Flag("--format", "", "F", "what to print: text, json, csv, junit or prom (default: text)",
         "output", one_of("text", "json", "csv", "junit", "prom"), "text, json, csv, junit or prom", _LOADS, "text"),
    Flag("--json", "", "FILE", "write the whole result there",
         "output", parse_output, "a file in a folder that exists", _LOADS),
    Flag("--tag", "", "K=V", "a label of the result; repeatable", "output", parse_tag, "key=value", _LOADS, (),
         many=True),
    Flag("--name", "", "NAME", "the result's name in the history (default: command and time)",
         "output", parse_text, "a name", _LOADS, ""),
    Flag("--history", "", "URL", "where results are kept: off, or a database such as postgresql://... "
         "(default: a file under the user's data folder)", "output", parse_text, "off or a database URL", _LOADS, ""),
    Flag("--file", "-f", "FILE", "settings in TOML, by the names of flags; what the command line says wins",
         "output", parse_file, "a file", _ALL),
    Flag("--no-tui", "", "", "plain lines instead of the live page", "output", None, "", _LOADS, default=False),
    Flag("--quiet", "", "", "no progress at all", "output", None, "", _LOADS, default=False),
)  # fmt: skip

FLAGS: tuple[Flag, ...] = (
    *_TARGET,
    *_LOAD,
    *_DATA,
    *_WINDOWS,
    *_VERDICT,
    *_BEHAVIOUR,
    *_SERVER,
    *_OUTPUT,
)

# Of each pair one may be given.
EXCLUSIVE = (
    ("rate", "steps"),
    ("rate", "concurrency"),
    ("steps", "concurrency"),
    ("steps", "duration"),
    ("data", "data_file"),
)
