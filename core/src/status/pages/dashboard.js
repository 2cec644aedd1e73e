'use strict';

const INTERVAL = 2000;
const SAMPLES = 60;

// The rates of the last refreshes, by name.
const histories = new Map();
let previous;
let answeredAt = Date.now();

// Numbers as in the log: three digits, binary units of bytes, no exponent.
const digits = (number) => (number < 100 ? +number.toPrecision(3) : Math.round(number));
const count = (number) => digits(number).toLocaleString('en', { maximumFractionDigits: 3 });
const size = (bytes) => {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB', 'EiB'];
  let unit = 0;
  for (; bytes >= 1023.5 && unit < 6; unit += 1) bytes /= 1024;
  return `${unit ? digits(bytes) : Math.round(bytes)}${units[unit]}`;
};
const time = (seconds) => {
  if (seconds < 0.0000005) return '0s';
  if (seconds < 0.0009995) return `${digits(seconds * 1e6)}us`;
  if (seconds < 0.9995) return `${digits(seconds * 1e3)}ms`;
  if (seconds < 59.95) return `${digits(seconds)}s`;
  let rest = Math.round(seconds);
  const parts = [[86400, 'd'], [3600, 'h'], [60, 'm'], [1, 's']].map(([length, unit]) => {
    const whole = Math.floor(rest / length);
    rest %= length;
    return whole && `${whole}${unit}`;
  });
  return parts.filter(Boolean).slice(0, 2).join(' ');
};

// An element. Children are elements and texts; false, null and undefined are left out.
const element = (name, attributes = {}, ...children) => {
  const space = ['svg', 'polyline'].includes(name) ? 'http://www.w3.org/2000/svg'
    : 'http://www.w3.org/1999/xhtml';
  const made = document.createElementNS(space, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child || child === 0));
  return made;
};

// Changes `old` to `wanted`, and keeps what is equal: the focus, a selection, an open list.
const patch = (old, wanted) => {
  if (old.nodeName !== wanted.nodeName || !old.attributes) {
    if (!old.isEqualNode(wanted)) old.replaceWith(wanted);
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!wanted.hasAttribute(name) && name !== 'open') old.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) old.setAttribute(name, value);
  const [before, after] = [[...old.childNodes], [...wanted.childNodes]];
  after.forEach((child, i) => (before[i] ? patch(before[i], child) : old.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
};

const remember = (name, value) =>
  histories.set(name, [...(histories.get(name) ?? []), value].slice(-SAMPLES));

// How much a count has grown per second since the last refresh; null if that is unknown.
const rate = (name, now, before, elapsed) => {
  const known = before !== undefined && before <= now && elapsed > 0;
  const value = known ? (now - before) / elapsed : null;
  if (!known) histories.delete(name);
  else remember(name, value);
  return value;
};

const sparkline = (name) => {
  const history = histories.get(name) ?? [];
  const top = Math.max(...history, 1e-9);
  const points = history.map((value, i) =>
    `${(i / (history.length - 1 || 1)) * 100},${19 - (value / top) * 18}`);
  const box = { viewBox: '0 0 100 20', preserveAspectRatio: 'none', 'aria-hidden': 'true' };
  return element('svg', box, element('polyline', { points: points.join(' ') }));
};

const tile = (label, value, note, ...more) => element('div', {}, element('dt', {}, label),
  element('dd', {}, element('b', {}, value), more, note && element('small', {}, note)));

const state = (text, kind) => element('span', { class: `state ${kind}` }, text);

const chips = (title, counts, kind = '') => {
  const items = Object.entries(counts).filter(([, number]) => number > 0);
  return items.length > 0 && [
    element('h3', {}, title),
    element('ul', {}, items.map(([name, number]) =>
      element('li', { class: kind }, `${name.replaceAll('_', ' ')} ${count(number)}`))),
  ];
};

// A table. The first column is text, and so are cells that are elements.
const table = (title, columns, rows) => rows.length > 0 && [
  element('h3', {}, title),
  element('div', { class: 'table' }, element('table', {}, [columns, ...rows].map((row, i) =>
    element('tr', {}, row.map((cell, j) => element(i ? 'td' : 'th',
      j === 0 || rows[0][j] instanceof Node ? { class: 'text' } : {}, cell)))))),
];

const upstreams = (figures) => {
  const of = (name) => figures[`wirestate_proxy_upstream_${name}`] ?? {};
  return table('Upstreams', ['upstream', 'health', 'open', 'connects', 'failures'],
    Object.entries(of('up')).map(([name, up]) => [
      name,
      up ? state('up', 'good') : state('down', 'bad'),
      ...['connections', 'connects', 'failures'].map((column) => count(of(column)[name] ?? 0)),
    ]));
};

const links = (list) => table('Streams', ['role', 'stream', 'state'],
  list.map(({ role, address, up, state: text }) =>
    [role, element('span', {}, address), state(text, up ? 'good' : 'bad')]));

const fanout = (figures) => {
  const of = (name) => figures[`wirestate_${name}`];
  if (of('fanout_subscribers') === undefined) return [];
  return [
    tile('Upstream', of('upstream_up') ? state('connected', 'good') : state('away', 'bad'),
      `connects ${count(of('upstream_connects'))}, failures ${count(of('upstream_failures'))}`),
    tile('Upstream paused', time(of('upstream_paused_seconds')), 'for subscribers that lag'),
    tile('Subscribers', count(of('fanout_subscribers')),
      `${count(of('fanout_lagged_subscribers'))} disconnected for lag`),
    tile('Slowest subscriber', `${count(of('fanout_lag_messages'))} behind`,
      `${count(of('fanout_skipped_messages'))} messages skipped`),
  ];
};

// Warnings that only some processes have.
const warnings = (figures) => {
  const dropped = figures.wirestate_log_dropped_lines;
  const expiry = figures.wirestate_tls_certificate_expiry_timestamp_seconds;
  const left = expiry - Date.now() / 1000;
  return [
    dropped > 0 && element('p', { class: 'bad' }, `${count(dropped)} log lines dropped`),
    expiry && element('p', { class: left > 14 * 86400 ? 'soft' : 'bad' },
      left > 0 ? `The certificate expires in ${time(left)}` : 'The certificate has expired'),
  ];
};

const figureTable = (figures) => {
  const rows = Object.entries(figures).flatMap(([name, value]) => (typeof value === 'object'
    ? Object.entries(value).map(([label, part]) => [`${name} ${label}`, String(part)])
    : [[name, String(value)]]));
  return rows.length > 0 && element('details', {}, element('summary', {}, 'All figures'),
    table('', ['figure', 'value'], rows));
};

const RATES = [
  ['wirestate_requests', 'Requests/s', count],
  ['wirestate_upstream_messages', 'Messages in/s', count],
  ['wirestate_fanout_delivered_messages', 'Messages out/s', count],
];

const card = (server, before, elapsed) => {
  const { name, connections, bytes, figures } = server;
  const speed = (label, now, then, form, total) => {
    const value = rate(`${name} ${label}`, now, then, elapsed);
    return tile(label, value === null ? '–' : form(value), total, sparkline(`${name} ${label}`));
  };
  const total = (number, form) => `${form(number)} in all`;
  const open = `${name} open`;
  remember(open, connections.open);
  const list = `/connections?server=${encodeURIComponent(name)}`;
  return element('section', {},
    element('div', { class: 'title' },
      element('h2', {}, name),
      state(server.state, server.state === 'stopping' ? 'warn' : 'good'),
      element('a', { class: 'soft', href: list }, 'Connections')),
    warnings(figures),
    element('dl', { class: 'tiles' },
      tile('Open connections', count(connections.open), `of ${count(connections.limit)}`,
        sparkline(open)),
      speed('Connections/s', connections.accepted, before?.connections.accepted, count,
        total(connections.accepted, count)),
      RATES.filter(([figure]) => figures[figure] !== undefined).map(([figure, label, form]) =>
        speed(label, figures[figure], before?.figures[figure], form, total(figures[figure], form))),
      speed('Received/s', bytes.received, before?.bytes.received, size,
        total(bytes.received, size)),
      speed('Sent/s', bytes.sent, before?.bytes.sent, size, total(bytes.sent, size)),
      tile('Queued', size(bytes.queued), 'wait to be sent'),
      fanout(figures)),
    links(server.links ?? []),
    upstreams(figures),
    chips('Open connections by state', connections.states),
    table('Connections that lag most', ['connection', 'number', 'behind', 'queued', 'age'],
      server.lagging.map((row) => [row.peer, String(row.id), count(row.lag), size(row.queued),
        time(row.age_seconds)])),
    chips('Ended, by reason', connections.ended),
    chips('Refused', connections.refused, 'bad'),
    chips('Failed accepts', connections.accept_failures, 'bad'),
    figureTable(figures));
};

const page = (now) => {
  const elapsed = previous ? now.uptime_seconds - previous.uptime_seconds : 0;
  const before = (name) => previous?.servers.find((server) => server.name === name);
  const pages = [['Connections', '/connections'], ['Metrics', '/metrics'],
    ['JSON', '/?format=json'], ['Readiness', '/readyz'], ['Health', '/healthz']];
  return element('main', {},
    element('header', {},
      element('h1', {}, now.message),
      element('span', { class: 'soft' },
        `wirestate ${now.version}, up for ${time(now.uptime_seconds)}`)),
    element('nav', {}, pages.map(([text, href]) => element('a', { href }, text))),
    warnings(now.figures),
    now.servers.map((server) => card(server, before(server.name), elapsed)));
};

const refresh = async () => {
  const alert = document.getElementById('alert');
  // The first rates come soon.
  const next = previous ? INTERVAL : INTERVAL / 2;
  try {
    const answer = await fetch('/?format=json', { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error(`it answers ${answer.status}`);
    const now = await answer.json();
    patch(document.querySelector('main'), page(now));
    document.title = now.message;
    [previous, answeredAt] = [now, Date.now()];
    document.body.className = 'live';
    alert.hidden = true;
  } catch (error) {
    const since = time(Math.round((Date.now() - answeredAt) / 1000));
    alert.textContent = `The server has not sent its status for ${since}: ${error.message}.`;
    document.body.className = 'lost';
    alert.hidden = false;
  }
  setTimeout(refresh, next);
};
refresh();
