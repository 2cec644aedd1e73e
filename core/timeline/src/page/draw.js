
// Draws the lanes that are visible, and of them the events that are visible. Where events are
// dense, it draws one mark for each pixel and kind.

const drawDense = (row, begin, end, y) => {
  let [column, sent, received] = [-1, 0, 0];
  const drawn = {};
  const flush = () => {
    if (sent) box(column, y - barOf(sent), 1, barOf(sent), colors.sent);
    if (received) box(column, y, 1, barOf(received), colors.received);
    [sent, received] = [0, 0];
  };
  for (let i = begin; i < end; i += 1) {
    const event = row.events[i];
    const x = Math.floor(toX(place(event)));
    if (x !== column) {
      flush();
      column = x;
    }
    const kind = kindOf[event];
    if (kind === SENT) sent = Math.max(sent, numbers[event]);
    else if (kind === RECEIVED) received = Math.max(received, numbers[event]);
    else if (drawn[kind] !== x) {
      drawn[kind] = x;
      const color = colors[groupOf(event)];
      if (PROBLEMS.has(kind)) box(x, y - 19, 1.5, kind === RESET ? 36 : 8, color);
      else box(x, y + 15, 1, 4, color);
    }
  }
  flush();
};

const drawSparse = (row, begin, end, y) => {
  // By band, the last mark: its place, how far to the right it reaches with its label, and how far
  // those before it do.
  const last = {};
  const endBefore = (band, x) => {
    const { x: at, end = gutter, before = gutter } = last[band] ?? {};
    return at < x ? end : before;
  };
  for (let i = begin; i < end; i += 1) {
    const event = row.events[i];
    const [x, band] = [Math.round(toX(place(event))), bandOf(kindOf[event])];
    const isInTheWay = (other) => collides(band, other);
    glyph(event, x, y);
    // The label ends before the next mark that is in its way.
    let next = i + 1;
    while (next < end && !isInTheWay(bandOf(kindOf[row.events[next]]))) next += 1;
    const text = labelOf(event);
    const length = Math.min(text.length, MAX_LABEL) * CHAR;
    const after = (next < end ? toX(place(row.events[next])) - 6 : area.width) - x - 8;
    const before = x - 8 - Math.max(...Object.keys(layout.bands).filter(isInTheWay)
      .map((other) => endBefore(other, x)));
    // At the right edge, it may precede its mark.
    const isBefore = next === end && after < length && before >= Math.max(after, 3 * CHAR);
    const space = isBefore ? before : after;
    const width = space < 3 * CHAR ? 0 : Math.min(space, length);
    if (width) {
      write(text, isBefore ? x - 8 - width : x + 8, y + layout.bands[band][2],
        colors[groupOf(event)], width);
    }
    last[band] = {
      x, end: x + 14 + (isBefore ? 0 : width), before: isBefore ? x : endBefore(band, x),
    };
  }
};
const MAX_LABEL = 34; // characters

// The colour of a state, the same for the same name.
const tint = (text) => {
  let hash = 7;
  for (const char of text) hash = (hash * 31 + char.codePointAt(0)) % 360;
  return `hsl(${hash} 60% 50% / .16)`;
};
const drawStates = (row, y) => {
  const changes = statesOf[row.lane];
  const from = Math.max(firstAt(changes, view.from) - 1, 0);
  for (let i = from, marks = 0; i < changes.length && marks < area.width; i += 1) {
    const x = clip(toX(place(changes[i])));
    if (x > area.width) break;
    const isEnd = kindOf[changes[i]] === REASON;
    const end = i + 1 < changes.length ? clip(toX(place(changes[i + 1])))
      : clip(isEnd ? x : toX(place(row.all.at(-1))));
    if (end - x < 1) continue;
    marks += 1;
    box(x, y - layout.middle + 1, end - x, layout.row - 2, tint(texts[numbers[changes[i]]]));
  }
};
const drawDeadlines = (row, y) => {
  if (view.hidden.has('timer')) return;
  const changes = deadlinesOf[row.lane];
  const level = y + (layout.bands.timer[0] + layout.bands.timer[1]) / 2;
  const from = Math.max(firstAt(changes, view.from) - 1, 0);
  for (let i = from; i < changes.length && i < from + 500; i += 1) {
    const [event, next] = [changes[i], changes[i + 1]];
    const x = toX(place(event));
    if (x > area.width) break;
    if (kindOf[event] === TIMEOUT || numbers[event] === null) continue;
    const at = placeOfTime(times[event] + numbers[event]);
    const end = Math.min(at, next === undefined ? Infinity : place(next));
    pen.setLineDash([2, 3]);
    line(clip(x), level, clip(toX(end)), level, colors.timer);
    pen.setLineDash([]);
  }
};

const drawArrows = (visible) => {
  let left = MAX_ARROWS;
  const events = visible.reduce((sum, { begin, end }) => sum + end - begin, 0);
  pen.globalAlpha = events > 400 ? 0.25 : 0.6;
  for (const { row, begin, end } of visible) {
    for (let i = begin; i < end; i += 1) {
      const event = row.events[i];
      for (const [map, isForward] of [[effects, true], [causes, false]]) {
        for (const other of map.get(event) ?? []) {
          const otherRow = rowOf.get(laneOf[other]);
          if (!otherRow || rank[other] < 0) continue;
          const [x1, x2] = [toX(place(event)), toX(place(other))];
          // An arrow is drawn once, by its effect if that is visible.
          if (isForward && x2 >= gutter && x2 <= area.width) continue;
          if ((left -= 1) < 0) return;
          const color = colors[groupOf(isForward ? event : other)];
          const [y1, y2] = [row, otherRow].map((at) => toY(at) + layout.middle);
          line(x1, y1, x2, y2, color);
          if (!isForward) arrowHead(x2, y2, x1, y1, color);
        }
      }
    }
  }
};
const arrowHead = (x1, y1, x2, y2, color) => {
  const angle = Math.atan2(y2 - y1, x2 - x1);
  const at = (turn, length) => [x2 - length * Math.cos(angle + turn),
    y2 - length * Math.sin(angle + turn)];
  pen.fillStyle = color;
  pen.beginPath();
  for (const [x, y] of [at(0, 1), at(0.45, 7), at(-0.45, 7)]) pen.lineTo(x, y);
  pen.fill();
};

// A round number of at least `least`: 1, 2 or 5 times a power of ten.
const roundUp = (least) => {
  const power = 10 ** Math.floor(Math.log10(least));
  return power * [1, 2, 5, 10].find((factor) => factor * power >= least * 0.999999);
};
// The positions of the lines of the grid.
const ticks = () => {
  const least = 90 * (view.width / (area.width - gutter));
  const distance = Math.max(roundUp(least), 1);
  const first = Math.max(Math.ceil(view.from / distance), 0);
  const last = Math.floor(Math.min(view.from + view.width, extent()) / distance);
  return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => (first + i) * distance);
};
const drawGrid = () => {
  for (const at of ticks()) line(toX(at), RULER - 5, toX(at), area.height, colors.line);
};
const drawRuler = () => {
  box(gutter, 0, area.width, RULER - 6, colors.card);
  for (const at of ticks()) {
    const time = view.axis === 'time' ? at : times[shown[at]];
    write(span(time, view.axis === 'time' ? 0 : 5), toX(at) + 3, 14, colors.soft);
  }
  line(0, RULER - 0.5, area.width, RULER - 0.5, colors.line);
};

const drawGutter = (visible) => {
  box(0, 0, gutter - 1, area.height, colors.card);
  line(gutter - 0.5, 0, gutter - 0.5, area.height, colors.line);
  const wide = gutter > 150;
  const time = times[view.cursor];
  for (const { row } of visible) {
    const y = toY(row);
    const isSelected = row.lane === laneOf[view.cursor];
    if (isSelected) box(0, y, gutter - 1, layout.row, colors.select);
    const [connection, end] = lanes[row.lane];
    const space = gutter - 14;
    pen.font = `600 ${LABEL}`;
    write(row.first ? connection : '', 8, y + 15, colors.ink,
      wide ? space - (end.length + 2) * CHAR : space);
    pen.font = LABEL;
    const endSpace = Math.min(end.length * CHAR, space);
    write(end, gutter - 10 - endSpace, y + (wide ? 15 : 30), colors.soft, endSpace + 1);
    // What has happened until the moment.
    const last = row.all[search(row.all, (event) => event > view.cursor) - 1];
    if (!wide || last === undefined) continue;
    const [sent, received] = [grouped(sentTotal[last]), grouped(receivedTotal[last])];
    const totals = sentTotal[last] + receivedTotal[last] ? `↑${sent} ↓${received}` : '';
    write(totals, gutter - 10 - totals.length * CHAR, y + 32, colors.soft);
    if (stateAt[last] < 0) continue;
    write(texts[numbers[stateAt[last]]], 8, y + 32, colors.state,
      space - (totals.length + 1) * CHAR);
  }
  box(0, 0, gutter - 1, RULER, colors.card);
  if (wide) write('moment', 8, 15, colors.soft);
  const text = span(time, 9);
  write(text, gutter - 10 - text.length * CHAR, 15, colors.ink);
  line(0, RULER - 0.5, gutter, RULER - 0.5, colors.line);
};

const draw = () => {
  Object.assign(work, { frames: work.frames + 1, events: 0, marks: 0 });
  pen.clearRect(0, 0, area.width, area.height);
  $('nothing').hidden = shown.length > 0;
  // A page that is not visible may have no size.
  if (!shown.length || area.width <= gutter || !overview.width) return;
  pen.font = LABEL;
  const margin = (20 / (area.width - gutter)) * view.width;
  const visible = [];
  for (const row of rows) {
    const y = toY(row);
    if (y > area.height) break;
    if (y + layout.row < RULER) continue;
    const begin = firstAt(row.events, view.from - margin);
    const end = firstAt(row.events, view.from + view.width + margin);
    visible.push({ row, begin, end });
    work.events += end - begin;
    if (row.lane === laneOf[view.cursor]) box(gutter, y, area.width, layout.row, colors.stripe);
  }
  drawGrid();
  for (const { row } of visible) {
    const y = toY(row) + layout.middle;
    if (!view.hidden.has('state')) drawStates(row, y);
    drawDeadlines(row, y);
    const [first, last] = [toX(place(row.all[0])), toX(place(row.all.at(-1)))].map(clip);
    line(first, y, last, y, colors.soft, 1);
  }
  const dense = ({ begin, end }) => end - begin > (area.width - gutter) / 5;
  if (!visible.some(dense)) drawArrows(visible);
  pen.globalAlpha = 1;
  for (const lane of visible) {
    const y = toY(lane.row) + layout.middle;
    (dense(lane) ? drawDense : drawSparse)(lane.row, lane.begin, lane.end, y);
  }
  drawMoment(view.mark, colors.timer, [4, 3]);
  drawMoment(view.cursor, colors.accent, []);
  const row = rowOf.get(laneOf[view.cursor]);
  if (row) {
    pen.lineWidth = 2;
    pen.strokeStyle = colors.accent;
    pen.strokeRect(toX(place(view.cursor)) - 9, toY(row) + 2, 18, layout.row - 4);
  }
  drawRuler();
  drawGutter(visible);
  drawWindow();
};
const drawMoment = (event, color, dash) => {
  if (event === null) return;
  pen.setLineDash(dash);
  const x = toX(place(event));
  if (x >= gutter) line(x, RULER - 6, x, area.height, color, 1.5);
  pen.setLineDash([]);
};
