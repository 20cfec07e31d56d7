"""The two sides of a connection in one shape: ours, and those of the h2 library, which is strict about its peer."""

from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions

from agent.wire.frames import Code
from agent.wire.stream import Bounds
from tests.wire import frames_by_hand as by_hand
from tests.wire.recording import Client, Owner, Server

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
TRAILER = (b"grpc-status", b"0")
BOUNDS = Bounds(streams=5, stream_window=70_000, connection_window=100_000)


class Peer:
    """What was received, by stream, and what can be done; what is done to a stream that is gone does nothing."""

    def __init__(self) -> None:
        self.got: dict[int, bytearray] = {}
        self.heads: set[int] = set()
        self.ended: set[int] = set()
        self.resets: dict[int, int] = {}

    def out(self) -> bytes:
        raise NotImplementedError

    def feed(self, data: bytes) -> None:
        raise NotImplementedError

    def open(self, *, end: bool) -> int:
        raise NotImplementedError

    def room(self) -> bool:
        raise NotImplementedError

    def respond(self, number: int) -> None:
        raise NotImplementedError

    def send(self, number: int, data: bytes) -> None:
        raise NotImplementedError

    def finish(self, number: int, *, trailers: bool) -> None:
        raise NotImplementedError

    def reset(self, number: int) -> None:
        raise NotImplementedError

    def hint(self, number: int) -> None:
        """Send a 103 before the answer."""
        raise NotImplementedError

    def change(self, window: int, max_frame: int) -> None:
        """Send other SETTINGS."""
        raise NotImplementedError

    def is_quiet(self) -> bool:
        """Whether no stream is open and nothing is held."""
        raise NotImplementedError


class _Ours(Peer):
    owner: Owner

    def out(self) -> bytes:
        data = bytes(self.owner.out)
        self.owner.out.clear()
        return data

    def feed(self, data: bytes) -> None:
        self.owner.feed(data)
        assert not self.owner.machine.dead, self.owner.details
        for name, number, *values in self.owner.take_events():
            assert name in {"request", "response", "interim", "data", "trailers", "end", "reset"}, (name, values)
            if name in {"request", "response"}:
                self.heads.add(number)
                self.got[number] = bytearray()
            elif name == "data":
                self.got[number] += values[0]
            elif name == "reset":
                self.resets[number] = values[0]
            elif name != "interim":
                self.ended.add(number)

    def stream(self, number: int) -> Any:
        stream = self.owner.machine.streams.get(number)
        return stream if stream is not None and stream.local_open else None

    def respond(self, number: int) -> None:
        if stream := self.stream(number):
            stream.send_head(by_hand.response(), False)

    def hint(self, number: int) -> None:
        if stream := self.stream(number):
            stream.send_head(by_hand.response(103), False)

    def change(self, window: int, max_frame: int) -> None:
        """Ours never do."""

    def send(self, number: int, data: bytes) -> None:
        if stream := self.stream(number):
            stream.send_data(data, False)

    def finish(self, number: int, *, trailers: bool) -> None:
        if stream := self.stream(number):
            if trailers:
                stream.send_trailers(by_hand.block([TRAILER]))
            else:
                stream.send_data(b"", True)

    def reset(self, number: int) -> None:
        stream = self.owner.machine.streams.get(number)
        if stream is not None:
            stream.reset(Code.CANCEL)

    def withhold(self, number: int, *, on: bool) -> None:
        stream = self.owner.machine.streams.get(number)
        if stream is not None:
            stream.withhold = int(on)
            stream.credit()

    def is_quiet(self) -> bool:
        machine = self.owner.machine
        return not machine.streams and not machine.waiting


class OurServer(_Ours):
    def __init__(self) -> None:
        super().__init__()
        self.owner: Server = Server(bounds=BOUNDS, target=BOUNDS.stream_window, settings=b"")
        self.owner.out += by_hand.join(self.owner.start)


class OurClient(_Ours):
    def __init__(self) -> None:
        super().__init__()
        self.owner: Client = Client(bounds=BOUNDS, settings=b"")
        self.owner.out += self.owner.preface

    def open(self, *, end: bool) -> int:
        return self.owner.open(end=end).id

    def room(self) -> bool:
        return self.owner.machine.room > 0


class _Theirs(Peer):
    """Holds what the h2 library may not send yet."""

    def __init__(self, *, client: bool) -> None:
        super().__init__()
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=client, header_encoding=None))
        self.h2.initiate_connection()
        self.held: dict[int, bytearray] = {}
        self.endings: dict[int, bool] = {}
        self.closed: set[int] = set()

    def out(self) -> bytes:
        return self.h2.data_to_send()

    def feed(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            self._on(event)
        for number in list(self.held):
            self._pump(number)

    def _on(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.RequestReceived() | h2.events.ResponseReceived():
                self.heads.add(event.stream_id)
                self.got[event.stream_id] = bytearray()
            case h2.events.DataReceived():
                self.got[event.stream_id] += event.data
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case h2.events.StreamEnded():
                self.ended.add(event.stream_id)
            case h2.events.StreamReset():
                self.resets[event.stream_id] = int(event.error_code)
                self._close(event.stream_id)
            case h2.events.ConnectionTerminated():
                raise AssertionError(event)

    def _close(self, number: int) -> None:
        self.closed.add(number)
        self.held.pop(number, None)

    def _pump(self, number: int) -> None:
        held = self.held[number]
        while held:
            size = min(len(held), self.h2.local_flow_control_window(number), self.h2.max_outbound_frame_size)
            if size <= 0:
                return
            padding = None
            if number & 2 and size > 100:
                padding, size = 30, size - 31
            self.h2.send_data(number, bytes(held[:size]), pad_length=padding)
            del held[:size]
        if number in self.endings:
            if self.endings[number]:
                self.h2.send_headers(number, [TRAILER], end_stream=True)
            else:
                self.h2.end_stream(number)
            self._close(number)

    def respond(self, number: int) -> None:
        if number not in self.closed and number not in self.held:
            self.h2.send_headers(number, [(b":status", b"200")])
            self.held[number] = bytearray()

    def hint(self, number: int) -> None:
        if number not in self.closed and number not in self.held:
            self.h2.send_headers(number, [(b":status", b"103")])

    def change(self, window: int, max_frame: int) -> None:
        self.h2.update_settings({by_hand.INITIAL_WINDOW_SIZE: window, by_hand.MAX_FRAME_SIZE: max_frame})

    def send(self, number: int, data: bytes) -> None:
        if number in self.held:
            self.held[number] += data
            self._pump(number)

    def finish(self, number: int, *, trailers: bool) -> None:
        if number in self.held:
            self.endings[number] = trailers
            self._pump(number)

    def reset(self, number: int) -> None:
        try:
            self.h2.reset_stream(number, Code.CANCEL)
        except h2.exceptions.StreamClosedError:
            return
        self._close(number)

    def is_quiet(self) -> bool:
        return not (self.held or self.h2.open_inbound_streams or self.h2.open_outbound_streams)


class TheirServer(_Theirs):
    def __init__(self) -> None:
        super().__init__(client=False)


class TheirClient(_Theirs):
    def __init__(self) -> None:
        super().__init__(client=True)

    def open(self, *, end: bool) -> int:
        number = self.h2.get_next_available_stream_id()
        self.h2.send_headers(number, by_hand.pseudo(), end_stream=end)
        if not end:
            self.held[number] = bytearray()
        return number

    def room(self) -> bool:
        return self.h2.open_outbound_streams < self.h2.remote_settings.max_concurrent_streams
