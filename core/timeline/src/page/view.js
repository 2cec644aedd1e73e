
// What is shown: the moment, the zoom and the filter, which the address of the page has too.
const view = {
  cursor: 0, // the selected event
  axis: 'time',
  from: 0, // the left edge, in units of the axis
  width: 1, // the visible part, in units of the axis
  text: '', lanes: '', hidden: new Set(),
  mark: null, // an event to measure from
};

let shown = []; // the events that pass the filter
const rank = new Int32Array(count); // their index in `shown`; -1 for the others
// The lanes that are drawn, from top to bottom, with their events that pass the filter, and all.
let rows = [];
const rowOf = new Map(); // by lane

// The position of a time on the axis of order.
const orderOf = (time) => {
  const next = search(shown, (event) => times[event] >= time);
  if (next === 0 || next === shown.length) return next;
  const [a, b] = [times[shown[next - 1]], times[shown[next]]];
  return next - 1 + (time - a) / (b - a);
};
const place = (event) => {
  if (view.axis === 'time') return times[event];
  return rank[event] >= 0 ? rank[event] : orderOf(times[event]);
};
const placeOfTime = (time) => (view.axis === 'time' ? time : orderOf(time));
const firstAt = (list, position) => search(list, (event) => place(event) >= position);
const extent = () => (view.axis === 'time' ? duration : shown.length - 1) || 1;

// The test of one event against the text of the filter.
const matcher = (query) => {
  if (!query) return () => true;
  const wanted = query.toLowerCase();
  const hex = /^0x((?:[0-9a-f]{2})+)$/.exec(wanted);
  const bytes = hex ? hex[1].match(/../g).map((byte) => parseInt(byte, 16))
    : [...new TextEncoder().encode(query)];
  const latin1 = String.fromCharCode(...bytes).toLowerCase();
  const inText = texts.map((text) => text.toLowerCase().includes(wanted));
  const inKind = KINDS.map(([name]) => name.toLowerCase().includes(wanted));
  return (event) => inKind[kindOf[event]] || (kindOf[event] >= FAULT && inText[numbers[event]])
    || (payloadOf[event] >= 0 && excerpts[payloadOf[event]].toLowerCase().includes(latin1));
};

const GROUP_GAP = 8;
// Places the lanes one below the other, with much space if that is enough for all.
const arrange = () => {
  const gaps = rows.filter(({ first }) => first).length * GROUP_GAP;
  layout = RULER + 4 + rows.length * SPACIOUS.row + gaps <= area.height ? SPACIOUS : COMPACT;
  let top = 4;
  rows.forEach((row, i) => {
    if (i && row.first) top += GROUP_GAP;
    row.top = top;
    top += layout.row;
  });
  $('tall').style.height = `${RULER + (rows.length ? top + 8 : 0)}px`;
};

// Applies the filter. On the axis of order, the selected event stays where it is on the screen.
const refilter = () => {
  const selected = view.cursor;
  const offset = (place(view.cursor) - view.from) / view.width;
  const wanted = view.lanes.toLowerCase();
  const isWanted = lanes.map((_, lane) => laneName(lane).toLowerCase().includes(wanted));
  const [isHidden, matches] = [KINDS.map(([, group]) => view.hidden.has(group)),
    matcher(view.text)];
  shown = [];
  const events = lanes.map(() => []);
  rank.fill(-1);
  for (let event = 0; event < count; event += 1) {
    if (!isWanted[laneOf[event]] || isHidden[kindOf[event]] || !matches(event)) continue;
    rank[event] = shown.length;
    shown.push(event);
    events[laneOf[event]].push(event);
  }
  rows = [];
  rowOf.clear();
  for (const members of connections.values()) {
    const visible = members.filter((lane) => events[lane].length);
    visible.forEach((lane, i) => {
      const row = { lane, top: 0, first: i === 0, events: events[lane], all: eventsOf[lane] };
      rows.push(row);
      rowOf.set(lane, row);
    });
  }
  arrange();
  if (shown.length && rank[view.cursor] < 0) {
    view.cursor = lastUntil(shown, times[view.cursor]) ?? shown[0];
  }
  if (view.axis === 'order') {
    view.width = Math.min(view.width, extent() * 1.1);
    view.from = place(view.cursor) - offset * view.width;
  }
  if (view.cursor !== selected) scrollTo(view.cursor);
  refreshed();
};

const fit = () => {
  const [first, last] = shown.length ? [place(shown[0]), place(shown.at(-1))] : [0, 1];
  view.width = Math.max((last - first) * 1.12, MIN_WIDTH[view.axis]);
  view.from = first - view.width * 0.02;
  changed();
};
const MIN_WIDTH = { time: 20, order: 2 };
// Multiplies the visible part by `factor`; the position `fixed` stays where it is.
const zoom = (factor, fixed = place(view.cursor)) => {
  const width = Math.min(Math.max(view.width * factor, MIN_WIDTH[view.axis]), extent() * 1.2);
  view.from = fixed - ((fixed - view.from) / view.width) * width;
  view.width = width;
  changed();
};
const pan = (distance) => {
  const end = extent();
  view.from = Math.min(Math.max(view.from + distance, -view.width / 2), end - view.width / 2);
  changed();
};
const setAxis = (axis) => {
  if (axis === view.axis) return;
  const offset = (place(view.cursor) - view.from) / view.width;
  const share = view.width / extent();
  view.axis = axis;
  view.width = Math.max(share * extent(), MIN_WIDTH[axis]);
  view.from = place(view.cursor) - offset * view.width;
  refreshed();
};
// Moves the visible part to an event that is outside.
const scrollTo = (event) => {
  const offset = (place(event) - view.from) / view.width;
  if (offset < 0) view.from = place(event) - view.width * 0.3;
  if (offset > 0.99) view.from = place(event) - view.width * 0.7;
};
const select = (event) => {
  if (!(rank[event] >= 0)) return;
  view.cursor = event;
  scrollTo(event);
  revealed();
};
// Selects the next or the previous event of `list`.
const step = (list, by) => {
  const at = search(list, (event) => event >= view.cursor);
  const here = list[at] === view.cursor;
  select(list[Math.min(Math.max(at + by - (by > 0 && !here ? 1 : 0), 0), list.length - 1)]);
};

// The address.

const toFragment = () => {
  const words = new URLSearchParams();
  words.set('at', clockTime(view.cursor));
  words.set('event', view.cursor);
  if (view.axis !== firstAxis) words.set('axis', view.axis);
  words.set('from', +view.from.toPrecision(12));
  words.set('width', +view.width.toPrecision(12));
  if (view.text) words.set('text', view.text);
  if (view.lanes) words.set('lanes', view.lanes);
  if (view.hidden.size) words.set('hide', [...view.hidden].join(' '));
  return `#${words}`;
};
// The event at a time of the run's clock, in seconds: the last one until then.
const eventAt = (seconds) => {
  const [, whole, fraction = ''] = /^(\d{1,12})(?:\.(\d{1,9}))?s?$/.exec(seconds) ?? [];
  if (whole === undefined) return 0;
  const nanos = BigInt(whole + fraction.padEnd(9, '0')) - BigInt(start);
  return Math.max(search(times, (time) => time > Number(nanos)) - 1, 0);
};
const fromFragment = () => {
  const words = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (words.has(name) ? Number(words.get(name)) : NaN);
  view.text = words.get('text') ?? '';
  view.lanes = words.get('lanes') ?? '';
  view.hidden = new Set((words.get('hide') ?? '').split(' ').filter((group) =>
    Object.hasOwn(GROUPS, group)));
  view.axis = Object.hasOwn(MIN_WIDTH, words.get('axis')) ? words.get('axis') : firstAxis;
  const event = number('event');
  view.cursor = Number.isInteger(event) && event >= 0 && event < count ? event
    : words.has('at') ? eventAt(words.get('at')) : 0;
  refilter();
  fit();
  if (number('width') > 0 && Number.isFinite(number('from'))) {
    view.width = Math.min(Math.max(number('width'), MIN_WIDTH[view.axis]), extent() * 1.2);
    view.from = number('from');
  }
  if (words.has('at') || words.has('event')) select(view.cursor);
  refreshed();
};
// On an axis of time, a run with long pauses shows its events in a few places only.
const firstAxis = (() => {
  const places = new Set(times.map((time) => Math.floor((time / duration) * 800)));
  return places.size < Math.min(count, 800) / 3 ? 'order' : 'time';
})();
