"""Two servers in asyncio: an echo, and the search service of Real Python's tutorial.

The machines are those of libwirestate_c, called by ctypes. A machine's buffer is where the event
loop receives into (asyncio.BufferedProtocol). docs/embed.md has the commands that run it.

    python3 search_server.py libwirestate_c.so

It prints its ports, serves until its standard input ends, then lets the connections finish.
"""

import asyncio
import ctypes
import json
import socket
import struct
import sys
from ctypes import POINTER, byref, c_bool, c_char_p, c_int32, c_size_t, c_uint32, c_uint64
from ctypes import c_void_p

ECHO, MESSAGE = 0, 1
WANT_READ, WANT_WRITE, WANT_FINISH, WANT_RESET, ENDED = 1, 2, 4, 8, 16
READ, EOF, WRITTEN, FINISHED, READ_ERROR, WRITE_ERROR, TIMEOUT, SHUT_DOWN, RELEASE = range(9)
NEVER = 2**64 - 1

TABLE = {
    "morpheus": "Follow the white rabbit. \U0001f430",
    "ring": "In the caves beneath the Misty Mountains. \U0001f48d",
    "\U0001f436": "\U0001f43e Playing ball! \U0001f3d0",
}


class Slice(ctypes.Structure):
    _fields_ = [("data", c_void_p), ("len", c_size_t)]

    @classmethod
    def of(cls, text):
        return cls(ctypes.cast(c_char_p(text), c_void_p), len(text))

    def __bytes__(self):
        return ctypes.string_at(self.data, self.len)


class Message(ctypes.Structure):
    _fields_ = [
        ("byte_order", c_uint32),
        ("content_type", Slice),
        ("content_encoding", Slice),
        ("content", Slice),
    ]


def load(path):
    library = ctypes.CDLL(path)
    machine = (c_void_p, c_uint64)
    for name, result, arguments in [
        ("wakes_new", c_int32, [POINTER(c_void_p)]),
        ("wakes_next", c_bool, [c_void_p, POINTER(c_uint64)]),
        ("server_new", c_int32, [c_uint32, c_void_p, POINTER(c_void_p), c_char_p, c_size_t]),
        ("server_accept", c_int32, [c_void_p, c_void_p, c_uint64, c_uint64, POINTER(c_void_p)]),
        ("machine_wants", c_uint32, [c_void_p]),
        ("machine_poll_shared", c_bool, machine),
        ("machine_read_buf", c_void_p, [c_void_p, POINTER(c_size_t)]),
        ("machine_write_bufs", c_size_t, [c_void_p, POINTER(Slice), c_size_t]),
        ("machine_handle", c_int32, [c_void_p, c_uint64, c_uint32, c_uint64]),
        ("machine_deadline", c_uint64, [c_void_p]),
        ("machine_must_reset", c_bool, [c_void_p]),
        ("machine_next_message", c_void_p, [c_void_p]),
        ("machine_free", None, [c_void_p]),
        ("incoming_get", c_int32, [c_void_p, POINTER(Message)]),
        ("incoming_reply", c_int32, [c_void_p, POINTER(Message)]),
        ("incoming_free", None, [c_void_p]),
        ("result_text", c_char_p, [c_int32]),
    ]:
        function = getattr(library, "wirestate_" + name)
        function.restype, function.argtypes = result, arguments
        setattr(library, name, function)
    return library


def check(result):
    if result:
        raise RuntimeError(lib.result_text(result).decode())


class Connection(asyncio.BufferedProtocol):
    """A machine on a transport."""

    def __init__(self, loop, server):
        self.loop, self.server = loop, server
        self.machine = c_void_p()
        self.timer = None
        self.reads = self.writes = True

    def now(self):
        return int(self.loop.time() * 1e9)

    def handle(self, event, value=0):
        check(lib.machine_handle(self.machine, self.now(), event, value))

    def connection_made(self, transport):
        self.transport = transport
        # What the socket does not take at once pauses the machine's output.
        transport.set_write_buffer_limits(0)
        self.token = id(self)
        connections[self.token] = self
        check(lib.server_accept(self.server, wakes, self.token, self.now(), byref(self.machine)))
        self.drive()

    def get_buffer(self, _):
        # The loop receives into it at once, and calls buffer_updated() or eof_received().
        length = c_size_t()
        data = lib.machine_read_buf(self.machine, byref(length))
        return (ctypes.c_char * length.value).from_address(data)

    def buffer_updated(self, count):
        self.handle(READ, count)
        self.drive()

    def eof_received(self):
        self.handle(EOF)
        self.drive()
        return True  # the transport stays open: the machine closes it

    def pause_writing(self):
        self.writes = False

    def resume_writing(self):
        self.writes = True
        self.drive()

    def connection_lost(self, error):
        if self.machine:
            self.free()  # the connection has failed, and the transport is closed

    def drive(self):
        """Takes turns until nothing moves any more, then drives those that were woken."""
        if self.machine:
            self.take_turns()
        while lib.wakes_next(wakes, byref(token := c_uint64())):
            if token.value in connections:
                connections[token.value].take_turns()

    def take_turns(self):
        while True:
            moved = lib.machine_poll_shared(self.machine, self.now())
            wants = lib.machine_wants(self.machine)
            if wants & WANT_WRITE and self.writes:
                slices = (Slice * 16)()
                count = lib.machine_write_bufs(self.machine, slices, 16)
                output = b"".join(bytes(each) for each in slices[:count])
                self.handle(WRITTEN, len(output))
                self.transport.write(output)
                moved = True
            elif wants & WANT_FINISH and self.writes:
                self.transport.write_eof()
                self.handle(FINISHED)
                moved = True
            elif wants & WANT_RESET:
                self.handle(FINISHED)  # free() sends the RST
                moved = True
            self.answer()
            if not moved and lib.machine_deadline(self.machine) <= self.now():
                self.handle(TIMEOUT, self.transport.get_write_buffer_size())
            elif not moved:
                break
        wants = lib.machine_wants(self.machine)
        if wants & ENDED:
            return self.free()
        self.handle(RELEASE)
        if bool(wants & WANT_READ) != self.reads:
            self.reads = not self.reads
            (self.transport.resume_reading if self.reads else self.transport.pause_reading)()
        if self.timer:
            self.timer.cancel()
        deadline = lib.machine_deadline(self.machine)
        self.timer = None if deadline == NEVER else self.loop.call_at(deadline / 1e9, self.drive)

    def answer(self):
        """Answers the requests of the message server."""
        while request := lib.machine_next_message(self.machine):
            message = Message()
            check(lib.incoming_get(request, byref(message)))
            content = bytes(message.content)
            if bytes(message.content_type) == b"text/json":
                encoding = bytes(message.content_encoding).decode()
                kind, encoding, content = b"text/json", b"utf-8", search(content, encoding)
            else:
                kind, encoding = b"binary/custom-server-binary-type", b"binary"
                content = b"First 10 bytes of request: " + content[:10]
            reply = Message(0, Slice.of(kind), Slice.of(encoding), Slice.of(content))
            check(lib.incoming_reply(request, byref(reply)))

    def free(self):
        if self.timer:
            self.timer.cancel()
        if lib.machine_must_reset(self.machine):
            # The kernel sends an RST when the socket is closed.
            linger = struct.pack("ii", 1, 0)
            sock = self.transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            self.transport.abort()
        else:
            self.transport.close()
        del connections[self.token]
        lib.machine_free(self.machine)
        self.machine = None


def search(content, encoding):
    try:
        request = json.loads(content.decode(encoding))
        action, value = request["action"], request.get("value")
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
        result = f"Error: {error}"
    else:
        if action == "search":
            result = TABLE.get(str(value).lower()) or f"No match for '{value}'."
        else:
            result = f"Error: invalid action '{action}'."
    return json.dumps({"result": result}, ensure_ascii=False).encode()


def new_server(kind):
    server, error = c_void_p(), ctypes.create_string_buffer(200)
    if lib.server_new(kind, None, byref(server), error, len(error)):
        raise ValueError(error.value.decode())
    return server


async def main():
    loop = asyncio.get_running_loop()
    listeners = []
    for name, kind in [("echo", ECHO), ("message", MESSAGE)]:
        server = new_server(kind)
        make = lambda server=server: Connection(loop, server)
        listeners.append(await loop.create_server(make, "127.0.0.1", 0, backlog=4096))
        print(name, listeners[-1].sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    for listener in listeners:
        listener.close()
    for connection in list(connections.values()):
        connection.handle(SHUT_DOWN)
        connection.drive()
    while connections:
        await asyncio.sleep(0.01)


lib = load(sys.argv[1])
wakes = c_void_p()
check(lib.wakes_new(byref(wakes)))
connections = {}
asyncio.run(main())
