'use strict';

// The events, as columns: event i has times[i], laneOf[i], kindOf[i], numbers[i].
const [
  [title, facts, leftOut], lanes, texts, start, [gaps, laneOf, kindOf, numbers],
  [excerpts, digests],
] = JSON.parse(document.getElementById('data').textContent);

// The kinds in the order of their numbers, each with its group, which is a colour and a filter.
const KINDS = [
  ['Dialled', 'open'], ['Refused', 'open'], ['Connected', 'open'], ['Accepted', 'open'],
  ['Sent', 'sent'], ['Received', 'received'], ['FIN received', 'fin'], ['FIN sent', 'fin'],
  ['RST sent', 'rst'], ['Closed', 'open'], ['Deadline', 'timer'], ['Timeout', 'timer'],
  ['Shutdown requested', 'state'], ['Shared state changed', 'state'], ['Fault', 'fault'],
  ['Error', 'error'], ['State', 'state'], ['Reason', 'state'], ['Note', 'note'],
];
const [
  DIALLED, REFUSED, CONNECTED, ACCEPTED, SENT, RECEIVED, EOF, FINISHED, RESET, CLOSED, DEADLINE,
  TIMEOUT, , , FAULT, ERROR, STATE, REASON, NOTE,
] = KINDS.keys();
const GROUPS = {
  open: 'Connection', sent: 'Sent', received: 'Received', fin: 'FIN', rst: 'RST', timer: 'Timers',
  fault: 'Faults', error: 'Errors', state: 'States', note: 'Notes',
};
const groupOf = (event) => KINDS[kindOf[event]][1];
const PROBLEMS = new Set([REFUSED, RESET, TIMEOUT, FAULT, ERROR]);

const count = gaps.length;
const times = new Float64Array(count); // nanoseconds since the first event
const payloadOf = new Int32Array(count).fill(-1); // an index in excerpts and digests
// Of the event's lane, after the event.
const sentTotal = new Float64Array(count);
const receivedTotal = new Float64Array(count);
const stateAt = new Int32Array(count).fill(-1); // the event that entered the state
const eventsOf = lanes.map(() => []);
const groupCounts = Object.fromEntries(Object.keys(GROUPS).map((group) => [group, 0]));
for (let i = 0, time = 0, payloads = 0; i < count; i += 1) {
  const [lane, kind] = [laneOf[i], kindOf[i]];
  const before = eventsOf[lane].at(-1);
  time += gaps[i];
  times[i] = time;
  sentTotal[i] = before === undefined ? 0 : sentTotal[before];
  receivedTotal[i] = before === undefined ? 0 : receivedTotal[before];
  stateAt[i] = before === undefined ? -1 : stateAt[before];
  if (kind === SENT || kind === RECEIVED) {
    payloadOf[i] = payloads;
    payloads += 1;
    (kind === SENT ? sentTotal : receivedTotal)[i] += numbers[i];
  }
  if (kind === STATE || kind === REASON) stateAt[i] = i;
  eventsOf[lane].push(i);
  groupCounts[groupOf(i)] += 1;
}
const duration = count ? times[count - 1] : 0;

// The first index of `list` at which `isReached` is true; from then on it stays true.
const search = (list, isReached) => {
  let [low, high] = [0, list.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (isReached(list[middle])) high = middle;
    else low = middle + 1;
  }
  return low;
};
// The last event of `list` until `time`; undefined if there is none.
const lastUntil = (list, time) => list[search(list, (event) => times[event] > time) - 1];

// The events at the other end that an event has caused, or that have caused it.
const causes = new Map();
const effects = new Map();
const link = (from, to) => {
  if (from === undefined || to === undefined || to < from) return;
  for (const [map, key, value] of [[effects, from, to], [causes, to, from]]) {
    if (map.has(key)) map.get(key).push(value);
    else map.set(key, [value]);
  }
};
const ofKind = (lane, ...kinds) =>
  eventsOf[lane].filter((event) => kinds.includes(kindOf[event]));
const statesOf = lanes.map((_, lane) => ofKind(lane, STATE, REASON));
const deadlinesOf = lanes.map((_, lane) => ofKind(lane, DEADLINE, TIMEOUT));
lanes.forEach(([, , peer], lane) => {
  if (peer === null) return;
  const [sends, reads] = [ofKind(lane, SENT), ofKind(peer, RECEIVED)];
  for (let s = 0, r = 0; s < sends.length && r < reads.length;) {
    link(sends[s], reads[r]);
    const [sent, received] = [sentTotal[sends[s]], receivedTotal[reads[r]]];
    if (sent <= received) s += 1;
    if (received <= sent) r += 1;
  }
  link(ofKind(lane, FINISHED)[0], ofKind(peer, EOF)[0]);
  const reset = ofKind(lane, RESET)[0];
  link(reset, ofKind(peer, ERROR).find((event) =>
    event > reset && texts[numbers[event]].includes('reset')));
  const accepted = ofKind(peer, ACCEPTED)[0];
  link(ofKind(lane, DIALLED)[0], accepted);
  if (accepted !== undefined) link(accepted, ofKind(lane, CONNECTED)[0]);
});

// Lanes of one connection are neighbours; connections come in the order of their first lane.
const connections = new Map();
lanes.forEach(([connection], lane) => {
  if (connections.has(connection)) connections.get(connection).push(lane);
  else connections.set(connection, [lane]);
});
const laneName = (lane) => lanes[lane].slice(0, 2).filter(Boolean).join(' ');

// Texts.

const grouped = (number) => number.toLocaleString('en');
const plural = (number, noun) => `${grouped(number)} ${noun}${number === 1 ? '' : 's'}`;
const size = (bytes) => plural(bytes, 'byte');
const trim = (text) => (text.includes('.') ? text.replace(/\.?0+$/, '') : text);
// A duration in nanoseconds, to a nanosecond or, with `digits`, to that many significant digits.
const span = (nanos, digits) => {
  const sign = nanos < 0 ? '-' : '';
  const length = Math.abs(nanos);
  const [unit, name, places] = length < 1e3 ? [1, 'ns', 0] : length < 1e6 ? [1e3, 'µs', 3]
    : length < 1e9 ? [1e6, 'ms', 6] : [1e9, 's', 9];
  const value = length / unit;
  return sign + trim(digits && places ? value.toPrecision(Math.max(digits, 1 + Math.log10(value)))
    : value.toFixed(places)) + name;
};
// A time by the clock of the run, in seconds, as the text of a failure has it.
const clockTime = (event) => {
  const nanos = (BigInt(start) + BigInt(times[event])).toString().padStart(10, '0');
  return trim(`${nanos.slice(0, -9)}.${nanos.slice(-9)}`);
};
const ESCAPES = { '\n': '\\n', '\r': '\\r', '\t': '\\t', '\0': '\\0', '\\': '\\\\' };
// Bytes as text: UTF-8, with escapes for what is not printed.
const decode = (latin1) =>
  new TextDecoder().decode(Uint8Array.from(latin1, (byte) => byte.charCodeAt(0)));
const printable = (text) => text.replace(/[\p{C}\\]/gu, (char) =>
  ESCAPES[char] ?? `\\x${char.codePointAt(0).toString(16).padStart(2, '0')}`);
// What happened, in a line; of the bytes, about `most` characters.
const describe = (event, most = 40) => {
  const [kind, number] = [kindOf[event], numbers[event]];
  const name = KINDS[kind][0];
  if (payloadOf[event] >= 0) {
    const excerpt = excerpts[payloadOf[event]];
    const rest = number > Math.min(excerpt.length, most) ? '…' : '';
    const text = most ? ` ${printable(decode(excerpt.slice(0, most)))}${rest}` : '';
    return `${name} ${size(number)}${text}`;
  }
  if (kind === DEADLINE) return number === null ? 'No deadline' : `Deadline in ${span(number, 4)}`;
  return kind >= FAULT ? `${name}: ${texts[number]}` : name;
};
