// The machines in WebAssembly, on the sockets of Node.js: an echo, one that answers each message
// with the same message, and a fan-out of lines. docs/embed.md has the commands that build and run
// it.
//
//     node servers.mjs wirestate_c.wasm
//
// It serves a few clients of its own, checks what they receive, and ends.

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import net from "node:net";

const [ECHO, MESSAGE, FANOUT] = [0, 1, 2];
const [WANT_READ, WANT_WRITE, WANT_FINISH, WANT_RESET, ENDED] = [1, 2, 4, 8, 16];
const [EOF, FINISHED, READ_ERROR, TIMEOUT, SHUT_DOWN, RELEASE] = [1, 3, 4, 6, 7, 8];
const [SETTING_FRAMING, FRAMING_DELIMITED] = [40, 1n];
const NEVER = 2n ** 64n - 1n;

const { instance } = await WebAssembly.instantiate(await readFile(process.argv[2]));
const lib = instance.exports;

// Memory may grow and move in each call, so a view of it is used at once.
const bytes = (pointer, length) => new Uint8Array(lib.memory.buffer, pointer, length);
const word = (pointer) => new DataView(lib.memory.buffer).getUint32(pointer, true);

/// Calls `f` with `size` bytes of the library's memory.
function allocated(size, f) {
  const memory = lib.wirestate_alloc(size);
  try {
    return f(memory);
  } finally {
    lib.wirestate_free(memory, size);
  }
}

function text(pointer) {
  const length = bytes(pointer, 256).indexOf(0);
  return Buffer.from(bytes(pointer, length)).toString();
}

function check(result) {
  if (result !== 0) throw new Error(text(lib.wirestate_result_text(result)));
}

/// The object that `f` stores.
function stored(f) {
  return allocated(4, (pointer) => {
    check(f(pointer));
    return word(pointer);
  });
}

const now = () => BigInt(Math.round(performance.now() * 1e6));
const wakes = stored(lib.wirestate_wakes_new);
const connections = new Map();
const reasons = [];
let nextToken = 0n;

const SCRATCH = 64 * 1024;
const scratch = lib.wirestate_alloc(SCRATCH);

class Connection {
  constructor(socket, server, make) {
    this.socket = socket;
    this.server = server;
    this.token = nextToken++;
    this.machine = stored((out) => make(server, wakes, this.token, now(), out));
    this.input = []; // what the machine has not accepted yet
    this.ended = false; // whether a FIN follows the input
    this.blocked = false; // whether the socket accepts no output for now
    connections.set(this.token, this);
    socket.on("data", (chunk) => {
      this.input.push(chunk);
      drive(this);
    });
    socket.on("end", () => {
      this.ended = true;
      drive(this);
    });
    socket.on("drain", () => {
      this.blocked = false;
      drive(this);
    });
    socket.on("error", (error) => {
      if (!this.machine) return;
      // The numbers of the host are not known in WebAssembly: the reason is `system_error`.
      if (this.wants() & WANT_READ) this.handle(READ_ERROR, -error.errno);
      drive(this);
    });
    socket.on("close", () => this.free());
    drive(this);
  }

  wants() {
    return lib.wirestate_machine_wants(this.machine);
  }

  deadline() {
    // A number of 64 bits is signed in WebAssembly.
    return BigInt.asUintN(64, lib.wirestate_machine_deadline(this.machine));
  }

  handle(event, value = 0) {
    check(lib.wirestate_machine_handle(this.machine, now(), event, BigInt(value)));
  }

  /// Moves what can move. Returns whether anything has.
  turn() {
    let moved = lib.wirestate_machine_poll_shared(this.machine, now()) !== 0;
    if (this.wants() & WANT_WRITE && !this.blocked) {
      const n = lib.wirestate_machine_collect(this.machine, now(), scratch, SCRATCH);
      this.blocked = !this.socket.write(Buffer.from(bytes(scratch, n)));
      moved = true;
    }
    if (this.wants() & WANT_FINISH && !this.blocked) {
      this.socket.end();
      this.handle(FINISHED);
      moved = true;
    }
    if (this.wants() & WANT_RESET) {
      this.handle(FINISHED); // free() sends the RST
      moved = true;
    }
    if (this.wants() & WANT_READ && this.input.length > 0) {
      const chunk = this.input.shift();
      const length = Math.min(chunk.length, SCRATCH);
      bytes(scratch, length).set(chunk.subarray(0, length));
      const n = lib.wirestate_machine_receive(this.machine, now(), scratch, length);
      if (n < chunk.length) this.input.unshift(chunk.subarray(n));
      moved = true;
    } else if (this.wants() & WANT_READ && this.ended) {
      this.handle(EOF);
      this.ended = false;
      moved = true;
    }
    return moved;
  }

  /// Answers each request of a message server with the same message.
  answer() {
    for (;;) {
      const request = lib.wirestate_machine_next_message(this.machine);
      if (request === 0) break;
      allocated(28, (message) => {
        check(lib.wirestate_incoming_get(request, message));
        check(lib.wirestate_incoming_reply(request, message));
      });
    }
  }

  takeTurns() {
    if (!this.machine) return;
    for (let due = true; ; ) {
      while (this.turn()) this.answer();
      if (!due || this.deadline() > now()) break;
      this.handle(TIMEOUT, this.socket.writableLength);
      due = false;
    }
    clearTimeout(this.timer);
    if (this.wants() & ENDED) return this.free();
    this.handle(RELEASE);
    if (this.wants() & WANT_READ) this.socket.resume();
    else this.socket.pause();
    const deadline = this.deadline();
    if (deadline !== NEVER) {
      const millis = Number((deadline - now()) / 1_000_000n) + 1;
      this.timer = setTimeout(drive, Math.min(millis, 2 ** 31 - 1), this);
    }
  }

  free() {
    if (!this.machine) return;
    clearTimeout(this.timer);
    lib.wirestate_machine_label(this.machine, scratch, SCRATCH);
    reasons.push(text(scratch));
    if (lib.wirestate_machine_must_reset(this.machine)) this.socket.resetAndDestroy();
    else this.socket.destroySoon();
    lib.wirestate_machine_free(this.machine);
    this.machine = 0;
    connections.delete(this.token);
  }
}

/// Drives a connection, then those that it has woken.
function drive(connection) {
  connection.takeTurns();
  allocated(8, (out) => {
    while (lib.wirestate_wakes_next(wakes, out)) {
      const token = new DataView(lib.memory.buffer).getBigUint64(out, true);
      connections.get(token)?.takeTurns();
    }
  });
}

function newServer(kind, config = 0) {
  return stored((out) => lib.wirestate_server_new(kind, config, out, 0, 0));
}

async function listen(server, make = lib.wirestate_server_accept) {
  const options = { allowHalfOpen: true, noDelay: true };
  const listener = net.createServer(options, (socket) => new Connection(socket, server, make));
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  return listener;
}

// The self-test: clients on real sockets.

function connect(listener) {
  const { port } = listener.address();
  return net.connect({ port, host: "127.0.0.1", allowHalfOpen: true, noDelay: true });
}

async function receive(socket, length = Infinity) {
  const chunks = [];
  let received = 0;
  while (received < length) {
    const chunk = socket.read() ?? (socket.readableEnded ? null : undefined);
    if (chunk === null) break;
    if (chunk === undefined) {
      await Promise.race([once(socket, "readable"), once(socket, "end")]);
      continue;
    }
    chunks.push(chunk);
    received += chunk.length;
  }
  return Buffer.concat(chunks);
}

/// Sends `input` in pieces of `size` bytes, then a FIN. Returns what comes back.
async function exchange(listener, input, size) {
  const socket = connect(listener);
  const output = receive(socket);
  for (let start = 0; start < input.length; start += size) {
    socket.write(input.subarray(start, start + size));
    if (socket.writableNeedDrain) await once(socket, "drain");
  }
  socket.end();
  return output;
}

function frame(content) {
  const header = Buffer.from(
    '{"byteorder": "little", "content-type": "text/json", "content-encoding": "utf-8", ' +
      `"content-length": ${Buffer.byteLength(content)}}`,
  );
  return Buffer.concat([Buffer.from([0, header.length]), header, Buffer.from(content)]);
}

const config = stored(lib.wirestate_config_new);
check(lib.wirestate_config_set(config, SETTING_FRAMING, FRAMING_DELIMITED));
const feed = newServer(FANOUT, config);
lib.wirestate_config_free(config);
const echo = await listen(newServer(ECHO));
const message = await listen(newServer(MESSAGE));
const publish = await listen(feed, lib.wirestate_upstream_new);
const subscribe = await listen(feed);

const pattern = Buffer.from(Array.from({ length: 300_000 }, (_, index) => (index * 31) % 251));
for (const [length, size] of [[0, 1], [300, 1], [300_000, 70_001]]) {
  const input = pattern.subarray(0, length);
  assert.deepEqual(await exchange(echo, input, size), input);
}
const many = Array.from({ length: 100 }, (_, index) => pattern.subarray(index, index + 5000));
const echoed = await Promise.all(many.map((input) => exchange(echo, input, 777)));
assert.deepEqual(echoed, many);

const frames = Buffer.concat(["1", "[2]", "", '{"3": "\u{1f430}"}'].map(frame));
for (const size of [1, 100, 1000]) assert.deepEqual(await exchange(message, frames, size), frames);
const refused = (await exchange(message, Buffer.from("\xff\xff", "latin1"), 2)).toString();
assert.match(refused, /"Error: a header of 65535 bytes, more than the limit of 4096"/);

const subscribers = Array.from({ length: 10 }, () => connect(subscribe));
const joined = () => [...connections.values()].filter(({ server }) => server === feed).length;
while (joined() < subscribers.length) await new Promise(setImmediate);
const received = subscribers.map((socket) => receive(socket, 8));
connect(publish).end("one\ntwo\nth");
for (const lines of await Promise.all(received)) assert.equal(lines.toString(), "one\ntwo\n");

const broken = connect(echo);
await once(broken, "connect");
broken.resetAndDestroy();
subscribers.forEach((socket) => socket.resume());
while (!reasons.includes("system_error")) await new Promise(setImmediate);
for (const listener of [echo, message, publish, subscribe]) listener.close();
for (const connection of connections.values()) {
  connection.handle(SHUT_DOWN);
  drive(connection);
}
subscribers.forEach((socket) => socket.end());
while (connections.size > 0) await new Promise(setImmediate);
const ended = {};
for (const label of reasons) ended[label] = (ended[label] ?? 0) + 1;
console.log("connections ended, by reason:", ended);
assert.deepEqual(ended, {
  finished: 106,
  header_too_long: 1,
  upstream_closed: 1,
  system_error: 1,
  shut_down: 10,
});
