
// Mouse, keyboard, controls and address.

let remembering = null;
// Browsers limit how often the address may change.
const remember = () => {
  remembering ??= setTimeout(() => {
    remembering = null;
    if (!count || location.hash === toFragment()) return;
    history.replaceState(null, '', toFragment());
  }, 300);
};
const clearFilter = () => {
  Object.assign(view, { text: '', lanes: '', hidden: new Set() });
  refilter();
};
const only = (lane) => {
  const [connection, end] = lanes[lane];
  // With the space, `client/1` is not `client/10`.
  const name = end ? `${connection} ` : connection;
  view.lanes = view.lanes === name ? '' : name;
  refilter();
};

$('title').textContent = title;
document.title = title;
$('facts').append(...facts.map(([name, value]) => element('div', {}, pair(name, value))));
for (const [group, label] of Object.entries(GROUPS)) {
  if (!groupCounts[group]) continue;
  const chip = element('button', { type: 'button', 'data-group': group },
    swatch(group), label, element('small', {}, grouped(groupCounts[group])));
  chip.title = 'Show or hide; with Shift, this kind alone';
  chip.onclick = ({ shiftKey }) => {
    const others = Object.keys(GROUPS).filter((other) => other !== group);
    if (shiftKey) view.hidden = new Set(view.hidden.size === others.length ? [] : others);
    else if (!view.hidden.delete(group)) view.hidden.add(group);
    refilter();
  };
  $('kinds').append(chip);
}
for (const id of ['text', 'lanes']) {
  $(id).oninput = () => {
    view[id] = $(id).value;
    refilter();
  };
}
$('controls').onsubmit = (event) => event.preventDefault();
$('axis').onchange = () => setAxis($('axis').value);
$('in').onclick = () => zoom(0.5);
$('out').onclick = () => zoom(2);
$('fit').onclick = fit;
$('keys').onclick = () => $('help').showModal();
$('slider').oninput = () => select(shown[$('slider').value]);

// The mouse.

const inCanvas = ({ clientX, clientY }) => {
  const { left, top } = canvas.getBoundingClientRect();
  return [clientX - left, clientY - top];
};
// The event of a lane that is nearest to `x`.
const nearest = (row, x) => {
  const next = firstAt(row.events, toPlace(x));
  return [row.events[next - 1], row.events[next]].filter((event) => event !== undefined)
    .sort((a, b) => Math.abs(toX(place(a)) - x) - Math.abs(toX(place(b)) - x))[0];
};
const showTip = (pointer) => {
  const [x, y] = inCanvas(pointer);
  const row = y > RULER && x > gutter && rowAt(y);
  const event = row ? nearest(row, x) : undefined;
  const tip = $('tip');
  tip.hidden = event === undefined || Math.abs(toX(place(event)) - x) > 12;
  if (tip.hidden) return;
  tip.textContent = `${span(times[event])} ${laneName(laneOf[event])}\n${describe(event, 60)}`;
  tip.style.left = `${Math.min(pointer.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.min(pointer.clientY + 16, innerHeight - tip.offsetHeight - 8)}px`;
};
let drag = null;
canvas.onpointerdown = (event) => {
  drag = { x: event.clientX, start: event.clientX };
  canvas.setPointerCapture(event.pointerId);
};
canvas.onpointermove = (event) => {
  if (!drag) return showTip(event);
  $('tip').hidden = true;
  const moved = drag.x - event.clientX;
  drag.x = event.clientX;
  return pan((moved / (area.width - gutter)) * view.width);
};
canvas.onpointerup = (event) => {
  if (!drag) return;
  const wasDrag = Math.abs(event.clientX - drag.start) > 4;
  drag = null;
  const [x, y] = inCanvas(event);
  const row = y > RULER ? rowAt(y) : undefined;
  if (wasDrag || !row) return;
  if (x < gutter) only(row.lane);
  else select(nearest(row, x));
};
canvas.onpointercancel = () => { drag = null; };
canvas.onpointerleave = () => { $('tip').hidden = true; };
canvas.ondblclick = (event) => {
  const [x] = inCanvas(event);
  if (x > gutter) zoom(0.25, toPlace(x));
};
canvas.addEventListener('wheel', (event) => {
  const amount = event.deltaX || (event.shiftKey && event.deltaY);
  if (event.ctrlKey) zoom(1.0025 ** event.deltaY, toPlace(Math.max(inCanvas(event)[0], gutter)));
  else if (amount) pan((amount / (area.width - gutter)) * view.width);
  else return;
  event.preventDefault();
}, { passive: false });
const moveWindow = (event) => {
  if (event.buttons !== 1) return;
  const { left, width } = overview.getBoundingClientRect();
  const middle = overviewPlace(((event.clientX - left) / width) * overview.width);
  pan(middle - view.width / 2 - view.from);
};
overview.onpointerdown = (event) => {
  overview.setPointerCapture(event.pointerId);
  moveWindow(event);
};
overview.onpointermove = moveWindow;
rowsOfList.onclick = ({ target }) => {
  const row = target.closest('[data-event]');
  if (row) select(Number(row.dataset.event));
};
list.onscroll = showList;
scroll.onscroll = changed;

// The keyboard.

const isProblem = (event) => PROBLEMS.has(kindOf[event]);
const toLane = (by) => {
  const at = rows.indexOf(rowOf.get(laneOf[view.cursor])) + by;
  if (rows[at]) select(nearest(rows[at], toX(place(view.cursor))));
};
const KEYS = {
  ArrowLeft: ({ shiftKey }) => step(shiftKey ? rowOf.get(laneOf[view.cursor]).events : shown, -1),
  ArrowRight: ({ shiftKey }) => step(shiftKey ? rowOf.get(laneOf[view.cursor]).events : shown, 1),
  ArrowUp: () => toLane(-1),
  ArrowDown: () => toLane(1),
  Home: () => select(shown[0]),
  End: () => select(shown.at(-1)),
  PageUp: () => pan(-view.width * 0.8),
  PageDown: () => pan(view.width * 0.8),
  '+': () => zoom(0.5),
  '=': () => zoom(0.5),
  '-': () => zoom(2),
  0: fit,
  n: () => select(shown.slice(rank[view.cursor] + 1).find(isProblem)),
  p: () => select(shown.slice(0, Math.max(rank[view.cursor], 0)).findLast(isProblem)),
  f: () => select((effects.get(view.cursor) ?? causes.get(view.cursor))?.[0]),
  m: () => {
    view.mark = view.mark === view.cursor ? null : view.cursor;
    revealed();
  },
  l: () => only(laneOf[view.cursor]),
  a: () => setAxis(view.axis === 'time' ? 'order' : 'time'),
  '/': () => $('text').focus(),
  '?': () => $('help').showModal(),
};
document.onkeydown = (event) => {
  const { target, key, ctrlKey, altKey, metaKey } = event;
  if (key === 'Escape' && target.type === 'search') target.blur();
  const takesKeys = ['search', 'select-one'].includes(target.type) || $('help').open
    || (target === $('slider') && key.startsWith('Arrow') && !event.shiftKey);
  if (takesKeys || ctrlKey || altKey || metaKey || !Object.hasOwn(KEYS, key)) return;
  event.preventDefault();
  if (shown.length) KEYS[key](event);
};

new ResizeObserver(() => {
  resize();
  arrange();
  showList();
  changed();
}).observe(scroll);
matchMedia('(prefers-color-scheme: dark)').onchange = () => {
  readColors();
  density = null;
  changed();
};
window.onhashchange = fromFragment;
readColors();
resize();
fromFragment();
