
// The strip above the lanes: how many events there are at each position.
const strip = overview.getContext('2d');
let density = null; // an image of it
const drawDensity = () => {
  const { width, height } = overview;
  density = document.createElement('canvas');
  Object.assign(density, { width, height });
  const strip = density.getContext('2d');
  const columns = { all: new Float64Array(width), problems: new Uint8Array(width) };
  shown.forEach((event) => {
    const x = Math.min(Math.floor(overviewX(place(event))), width - 1);
    columns.all[x] += 1;
    if (PROBLEMS.has(kindOf[event])) columns.problems[x] = kindOf[event];
  });
  const top = Math.log2(columns.all.reduce((a, b) => Math.max(a, b), 1) + 1);
  columns.all.forEach((number, x) => {
    if (!number) return;
    const size = (Math.log2(number + 1) / top) * (height - 10);
    strip.fillStyle = colors.note;
    strip.fillRect(x, height - size, 1, size);
    if (!columns.problems[x]) return;
    strip.fillStyle = colors[KINDS[columns.problems[x]][1]];
    strip.fillRect(x - 1, 0, 3, 7);
  });
};
const overviewX = (position) => ((position + extent() * 0.02) / (extent() * 1.04)) * overview.width;
const overviewPlace = (x) => (x / overview.width) * extent() * 1.04 - extent() * 0.02;
const drawWindow = () => {
  if (!density) drawDensity();
  strip.clearRect(0, 0, overview.width, overview.height);
  strip.drawImage(density, 0, 0);
  const [x, end] = [view.from, view.from + view.width].map(overviewX);
  strip.fillStyle = colors.accent;
  strip.globalAlpha = 0.15;
  strip.fillRect(x, 0, Math.max(end - x, 2), overview.height);
  strip.globalAlpha = 1;
  strip.fillRect(overviewX(place(view.cursor)) - 1, 0, 2, overview.height);
};

// Fits the canvases to their places.
const resize = () => {
  const ratio = devicePixelRatio || 1;
  area = { width: scroll.clientWidth, height: scroll.clientHeight };
  gutter = area.width > 600 ? 210 : 110;
  for (const [element, width, height] of [
    [canvas, area.width, area.height], [overview, overview.clientWidth, overview.clientHeight],
  ]) {
    element.width = Math.round(width * ratio);
    element.height = Math.round(height * ratio);
  }
  canvas.style.width = `${area.width}px`;
  canvas.style.height = `${area.height}px`;
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  density = null;
};
