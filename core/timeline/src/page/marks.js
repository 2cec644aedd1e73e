
// The canvases, and the marks on them.

const $ = (id) => document.getElementById(id);
const [canvas, overview, scroll] = [$('canvas'), $('overview'), $('scroll')];
const pen = canvas.getContext('2d');
const RULER = 24;
const HALF = 13; // the highest bar
const MAX_ARROWS = 4000;
const LABEL = '11px ui-monospace, "DejaVu Sans Mono", Menlo, monospace';
const CHAR = 6.7; // the width of a character of a label
let gutter = 200; // the width of the names of the lanes
let colors = {};
let area = { width: 0, height: 0 };
// What the last frame took; for tests.
const work = { frames: 0, events: 0, marks: 0 };

const readColors = () => {
  const style = getComputedStyle(document.documentElement);
  const names = ['page', 'card', 'stripe', 'line', 'ink', 'soft', 'accent', 'select',
    ...Object.keys(GROUPS)];
  colors = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`)]));
};

const toX = (position) => gutter + ((position - view.from) / view.width) * (area.width - gutter);
const toPlace = (x) => view.from + ((x - gutter) / (area.width - gutter)) * view.width;
const toY = (row) => RULER + row.top - scroll.scrollTop;
const clip = (x) => Math.min(Math.max(x, gutter - 10), area.width + 10);
const rowAt = (y) => rows.find((row) => y >= toY(row) && y < toY(row) + layout.row);

// How a lane is divided: its height, where its line is, and for each band of marks the top and the
// bottom of the mark, and the base of the label, relative to the line.
const COMPACT = {
  row: 44,
  middle: 22,
  bands: {
    state: [0, 0, -9], problem: [-19, -4, -9], sent: [-13, 0, -9], line: [-5, 5, 12],
    fin: [-10, 10, 12], received: [0, 13, 16], timer: [9, 17, 16],
  },
};
const SPACIOUS = {
  row: 114,
  middle: 56,
  bands: {
    state: [0, 0, -44], problem: [-41, -26, -29], sent: [-13, 0, -16], line: [-5, 5, 14],
    fin: [-10, 10, 14], received: [0, 13, 27], timer: [33, 41, 51],
  },
};
let layout = COMPACT;
const bandOf = (kind) => {
  switch (kind) {
    case SENT: return 'sent';
    case RECEIVED: return 'received';
    case EOF: case FINISHED: return 'fin';
    case DEADLINE: case TIMEOUT: return 'timer';
    case FAULT: case ERROR: return 'problem';
    case STATE: case REASON: return 'state';
    default: return 'line';
  }
};
// Whether a label of the band `one` must end before a mark of the band `other` and its label.
const collides = (one, other) => {
  const [top, bottom] = [layout.bands[one][2] - 9, layout.bands[one][2] + 3];
  const [markTop, markBottom, base] = layout.bands[other];
  return (top < markBottom && markTop < bottom) || Math.abs(base - layout.bands[one][2]) < 12;
};

const box = (x, y, width, height, color) => {
  pen.fillStyle = color;
  pen.fillRect(x, y, width, height);
  work.marks += 1;
};
const line = (x1, y1, x2, y2, color, width = 1) => {
  pen.strokeStyle = color;
  pen.lineWidth = width;
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
  work.marks += 1;
};
const paint = (color, filled) => {
  pen.lineWidth = 1.5;
  pen.strokeStyle = color;
  pen.fillStyle = filled ? color : colors.card;
  pen.fill();
  pen.stroke();
  work.marks += 1;
};
const polygon = (points, color, filled = true) => {
  pen.beginPath();
  points.forEach(([x, y]) => pen.lineTo(x, y));
  pen.closePath();
  paint(color, filled);
};
const circle = (x, y, radius, color, filled) => {
  pen.beginPath();
  pen.arc(x, y, radius, 0, 7);
  paint(color, filled);
};
const write = (text, x, y, color, most = Infinity) => {
  const length = Math.floor(most / CHAR);
  if (length < 2) return;
  const cut = text.length > length ? `${text.slice(0, length - 1)}…` : text;
  pen.fillStyle = color;
  pen.fillText(cut, x, y);
  work.marks += 1;
};

// The height of a bar of that many bytes.
const barOf = (bytes) => Math.min(3 + Math.log2(bytes + 1) * 0.75, HALF);

// The mark of one event where there is space. `x` and `y` are in the middle of its lane.
const glyph = (event, x, y) => {
  const [kind, color] = [kindOf[event], colors[groupOf(event)]];
  const bar = barOf(numbers[event]);
  const [top, bottom] = layout.bands[bandOf(kind)];
  switch (kind) {
    case SENT:
      polygon([[x - 2, y], [x - 2, y - bar], [x + 2, y - bar], [x + 2, y]], color);
      break;
    case RECEIVED:
      polygon([[x - 2, y], [x - 2, y + bar], [x + 2, y + bar], [x + 2, y]], color);
      break;
    case EOF: case FINISHED: {
      line(x, y - 10, x, y + 10, color, 1.5);
      polygon([[x, y - 10], [x + 7, y - 6.5], [x, y - 3]], color, kind === FINISHED);
      break;
    }
    case REFUSED: case RESET: {
      const cross = kind === RESET ? colors.rst : colors.error;
      line(x - 5, y - 5, x + 5, y + 5, cross, 2.5);
      line(x - 5, y + 5, x + 5, y - 5, cross, 2.5);
      break;
    }
    case DEADLINE: case TIMEOUT:
      if (numbers[event] === null) box(x - 4, y + top + 3, 8, 2.5, color);
      else polygon([[x, y + top], [x + 4, y + top + 4], [x, y + bottom], [x - 4, y + top + 4]],
        color, kind === TIMEOUT);
      break;
    case FAULT:
      polygon([[x + 2, y + top], [x - 4, y + top + 8], [x, y + top + 8], [x - 2, y + bottom],
        [x + 4, y + top + 6], [x, y + top + 6]], color);
      break;
    case ERROR:
      polygon([[x, y + top + 1], [x + 6, y + top + 11], [x - 6, y + top + 11]], color);
      break;
    case CLOSED:
      box(x - 3.5, y - 3.5, 7, 7, color);
      break;
    case NOTE:
      circle(x, y, 2, color, true);
      break;
    case STATE: case REASON:
      line(x, y - layout.middle + 5, x, y + layout.row - layout.middle - 5, color, 2);
      break;
    default:
      circle(x, y, 4, color, kind === CONNECTED || kind === ACCEPTED);
  }
};

// The short text beside a mark.
const labelOf = (event) => {
  const [kind, number] = [kindOf[event], numbers[event]];
  if (payloadOf[event] >= 0) {
    const text = printable(decode(excerpts[payloadOf[event]].slice(0, 24)));
    return `${grouped(number)}B ${text}`;
  }
  if (kind === DEADLINE) return number === null ? 'no deadline' : span(number, 3);
  return kind >= FAULT ? texts[number] : KINDS[kind][0];
};
