
// The details of the selected event, and the list of all.

// An element. Children are elements and texts; false, null and undefined are left out.
const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.flat().filter((child) => child || child === 0));
  return made;
};
const swatch = (group) => {
  const made = element('span', { class: 'swatch' });
  made.style.background = `var(--${group})`;
  return made;
};

const LINE = 22;
const [list, rowsOfList] = [$('list'), $('rows')];
const showList = () => {
  const first = Math.max(Math.floor(list.scrollTop / LINE) - 2, 0);
  const last = Math.min(first + Math.ceil(list.clientHeight / LINE) + 4, shown.length);
  rowsOfList.style.height = `${shown.length * LINE}px`;
  rowsOfList.replaceChildren(...shown.slice(first, last).map((event, i) => {
    const row = element('div', { role: 'listitem' },
      element('span', {}, span(times[event], 9)), element('span', {}, laneName(laneOf[event])),
      swatch(groupOf(event)), element('span', {}, describe(event)));
    row.style.top = `${(first + i) * LINE}px`;
    row.dataset.event = event;
    row.title = describe(event, 200);
    if (event === view.cursor) row.setAttribute('aria-current', 'true');
    return row;
  }));
};

// Bytes in hexadecimal, eight a line.
const hexLines = (latin1) => (latin1.match(/[^]{1,8}/g) ?? []).map((part, i) => {
  const hex = [...part].map((byte) => byte.charCodeAt(0).toString(16).padStart(2, '0')).join(' ');
  const text = part.replace(/[^ -~]/g, '.');
  return `${(i * 8).toString(16).padStart(4, '0')}  ${hex.padEnd(23)}  ${text}`;
}).join('\n');
const textLines = (latin1) => decode(latin1).split('\n').map(printable).join('\\n\n');

const jump = (event, from) => {
  const button = element('button', { type: 'button' },
    `${laneName(laneOf[event])}, ${describe(event, 12)}, ${span(times[event] - times[from])}`);
  button.onclick = () => {
    if (rank[event] < 0) clearFilter();
    select(event);
  };
  return button;
};
const pair = (name, ...value) => [element('dt', {}, name), element('dd', {}, ...value)];

const showDetails = () => {
  if (!shown.length) return $('details').replaceChildren(element('p', {}, 'No event'));
  const event = view.cursor;
  const [kind, number, lane] = [kindOf[event], numbers[event], laneOf[event]];
  const before = eventsOf[lane][search(eventsOf[lane], (other) => other >= event) - 1];
  const previous = shown[rank[event] - 1];
  const since = (other) => other !== undefined && span(times[event] - times[other]);
  $('live').textContent = `${laneName(lane)}, ${describe(event)}`;
  const parts = [
    element('h2', {}, swatch(groupOf(event)), describe(event, 0)),
    element('dl', {},
      pair('lane', laneName(lane)),
      pair('time', span(times[event]), element('span', { class: 'soft' },
        `, by the clock ${clockTime(event)}s`)),
      view.mark !== null && pair('since the mark', since(view.mark)),
      previous !== undefined && pair('since the event before', since(previous)),
      before !== undefined && before !== previous
        && pair('since the one in this lane', since(before)),
      payloadOf[event] >= 0 && pair('bytes of the stream', ((end) =>
        `${grouped(end - number)} to ${grouped(end)}`)(
        (kind === SENT ? sentTotal : receivedTotal)[event])),
      payloadOf[event] >= 0 && digests[payloadOf[event]]
        && pair('digest', digests[payloadOf[event]]),
      kind !== STATE && stateAt[event] >= 0 && pair('state', texts[numbers[stateAt[event]]]),
      pair('number', `${grouped(event)} of ${grouped(count)}`)),
  ];
  for (const [heading, others] of [
    ['Comes from', causes.get(event)], ['Arrives at', effects.get(event)],
  ]) {
    if (!others) continue;
    parts.push(element('h3', {}, heading));
    others.slice(0, 20).forEach((other) => parts.push(element('div', {}, jump(other, event))));
    if (others.length > 20) parts.push(`and ${others.length - 20} more`);
  }
  if (payloadOf[event] >= 0) {
    const excerpt = excerpts[payloadOf[event]];
    const rest = number - excerpt.length;
    parts.push(element('h3', {}, 'Text'), element('pre', {}, textLines(excerpt)),
      element('h3', {}, 'Hex'), element('pre', {}, hexLines(excerpt)),
      rest > 0 && element('p', { class: 'soft' }, `${size(rest)} more are not in this page`));
  }
  return $('details').replaceChildren(...parts.flat().filter(Boolean));
};

const showTotals = () => {
  const all = shown.length === count ? '' : `${grouped(shown.length)} of `;
  $('totals').textContent = [
    `${all}${plural(count, 'event')}`, plural(rows.length, 'lane'), span(duration, 4),
    leftOut && `${grouped(leftOut)} later events left out`,
  ].filter(Boolean).join(' · ');
};

// What changes with every movement. At most once a frame.
let pending = null;
const changed = () => {
  pending ??= requestAnimationFrame(() => {
    pending = null;
    draw();
    $('slider').value = rank[view.cursor];
    remember();
  });
};
// The filter or the axis has changed.
const refreshed = () => {
  density = null;
  $('slider').max = Math.max(shown.length - 1, 0);
  for (const id of ['text', 'lanes']) if ($(id).value !== view[id]) $(id).value = view[id];
  $('axis').value = view.axis;
  for (const chip of $('kinds').querySelectorAll('button')) {
    chip.setAttribute('aria-pressed', !view.hidden.has(chip.dataset.group));
  }
  showTotals();
  revealed();
};
// The selected event has changed, or its place.
const revealed = () => {
  const row = rowOf.get(laneOf[view.cursor]);
  if (row) {
    const space = scroll.clientHeight - RULER - layout.row;
    scroll.scrollTop = Math.min(Math.max(scroll.scrollTop, row.top - space), row.top - 4);
  }
  const top = rank[view.cursor] * LINE;
  if (top < list.scrollTop || top > list.scrollTop + list.clientHeight - LINE) {
    list.scrollTop = top - list.clientHeight / 2;
  }
  showList();
  showDetails();
  changed();
};
