// The explorer: a map of objects to look at, search and label. All it shows is in the page's own text; it asks no server.
import createScatterplot from 'regl-scatterplot';

const $ = id => document.getElementById(id);
const data = JSON.parse($('data').textContent);
const n = data.ids.length;
const phone = matchMedia('(max-width: 760px)');
let fingers = false;

// ---- numbers and pictures, as they are packed

const KINDS = { f4: Float32Array, f8: Float64Array, i4: Int32Array, i2: Int16Array };

function bytes(text) {
  const raw = atob(text), out = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
  return out;
}

const unpack = ({ type, data }) => new KINDS[type](bytes(data).buffer);

const x = unpack(data.x), y = unpack(data.y), ra = unpack(data.ra), dec = unpack(data.dec);
const near = data.near && { k: data.near.k, rows: unpack(data.near.rows), scores: unpack(data.near.scores) };
const columns = data.columns.map(c => ({ ...c, data: c.data && unpack(c) }));
const sheets = [...document.querySelectorAll('.sheet')].map(o => ({ text: o, url: null }));

function sheetUrl(s) {
  const sheet = sheets[s];
  if (!sheet.url) {
    sheet.url = URL.createObjectURL(new Blob([bytes(sheet.text.textContent.trim())], { type: data.sheets.type }));
    sheet.text.remove();
  }
  return sheet.url;
}

// an element that shows object i; its place in the sheet is in percent, so that it may have any size
function picture(i, size) {
  const { across } = data.sheets, each = across * across, at = i % each;
  const o = document.createElement('span');
  const rows = Math.ceil(Math.min(each, n - (i - at)) / across);
  const part = (k, of) => of > 1 ? 100 * k / (of - 1) : 0;
  o.className = 'picture';
  o.setAttribute('role', 'img');
  o.setAttribute('aria-label', `Cutout of ${data.ids[i]}`);
  o.style.backgroundImage = `url("${sheetUrl(Math.floor(i / each))}")`;
  o.style.backgroundSize = `${100 * across}% ${100 * rows}%`;
  o.style.backgroundPosition = `${part(at % across, across)}% ${part(Math.floor(at / across), rows)}%`;
  if (size) o.style.width = o.style.height = `${size}px`;
  return o;
}

// ---- small helpers: text only ever becomes text

function make(tag, text, attributes = {}) {
  const o = document.createElement(tag);
  if (text != null) o.textContent = text;
  for (const [k, v] of Object.entries(attributes)) k in o ? o[k] = v : o.setAttribute(k, v);
  return o;
}

function put(id, ...children) {
  $(id).replaceChildren(...children);
}

const count = k => k.toLocaleString('en');

function number(v) {
  if (Number.isNaN(v)) return '–';
  return Number.isInteger(v) && Math.abs(v) <= Number.MAX_SAFE_INTEGER ? String(v) : String(+v.toPrecision(6));
}

function value(c, i) {
  if (c.kind === 'number') return number(c.data[i]);
  const text = c.kind === 'category' ? c.data[i] < 0 ? '' : c.values[c.data[i]] : c.values[i];
  return text === '' ? '–' : text;
}

const position = i => Number.isNaN(ra[i]) ? '' : `${ra[i].toFixed(5)}, ${dec[i] < 0 ? '−' : '+'}${Math.abs(dec[i]).toFixed(5)}`;

function values(columns, i) {
  const table = make('table');
  for (const c of columns) {
    const row = table.insertRow();
    row.append(make('th', c.name, { scope: 'row' }), make('td', value(c, i)));
  }
  return table;
}

// ---- labels, kept by the browser under a name that only this table has

const LABELS = ['1', '2', '3', '4', '5', '6', '7', '8', '9'];
const kept = `astromask ${data.key}`;
let labels = new Map(), names = ['yes', 'no', 'unsure', '', '', '', '', '', ''];

try {
  const old = JSON.parse(localStorage.getItem(kept));
  if (old) { names = old.names; labels = new Map(old.labels.filter(([i]) => i < n)); }
} catch { /* a browser that keeps nothing, or kept something else */ }

function keep() {
  try { localStorage.setItem(kept, JSON.stringify({ names, labels: [...labels] })); } catch { /* as above */ }
}

const labelName = k => names[k].trim() || String(k + 1);

function label(rows, k) {
  for (const i of rows) k === null ? labels.delete(i) : labels.set(i, k);
  keep();
  showLabels();
  showObject();
  if (colour === 'label') paint();
  marks();
}

function download() {
  const quoted = s => /[",\n\r]/.test(s) ? `"${s.replaceAll('"', '""')}"` : s;
  const rows = [...labels].sort((a, b) => a[0] - b[0]).map(([i, k]) => `${quoted(data.ids[i])},${quoted(labelName(k))}\n`);
  const a = make('a', null, { download: 'labels.csv', href: URL.createObjectURL(new Blob(['id,label\n', ...rows], { type: 'text/csv' })) });
  a.click();
  setTimeout(() => URL.revokeObjectURL(a.href), 1000);
}

function labelRow(k) {
  const row = make('div', null, { className: 'row' });
  const button = make('button', null, { title: `Give the chosen object this label (${k + 1}); all that are selected (Shift ${k + 1})` });
  button.append(make('kbd', LABELS[k]));
  button.classList.toggle('on', chosen !== null && labels.get(chosen) === k);
  button.onclick = () => target().length && label(target(), labels.get(chosen) === k ? null : k);
  const name = make('input', null, { value: names[k], placeholder: `label ${k + 1}` });
  name.setAttribute('aria-label', `Name of label ${k + 1}`);
  name.oninput = () => { names[k] = name.value; keep(); };
  name.onchange = () => { if (colour === 'label') paint(); showObject(); };
  let of = 0;
  for (const v of labels.values()) of += v === k;
  row.append(button, name, make('span', of ? count(of) : '', { className: 'count' }));
  return row;
}

function showLabels() {
  const last = Math.max(2, ...names.map((s, k) => s ? k : 0), ...labels.values());
  const more = make('button', 'Another label', { hidden: last > 7, onclick: () => { names[last + 1] = `label ${last + 2}`; keep(); showLabels(); } });
  const save = make('button', `Download ${count(labels.size)} as CSV`, { id: 'download', disabled: !labels.size, onclick: download });
  save.append(' ', make('kbd', 'D'));
  const buttons = make('div', null, { className: 'buttons' });
  buttons.append(save, more);
  put('labels', ...LABELS.slice(0, last + 1).map((_, k) => labelRow(k)), buttons);
}

// ---- the chosen object, and what is selected

let chosen = null, hovered = null, selection = [];

const target = () => chosen !== null ? [chosen] : hovered !== null ? [hovered] : [];

function showObject() {
  if (chosen === null) {
    put('object', make('h2', 'No object chosen'), make('p', phone.matches ? 'Tap an object on the map: it appears here, with its nearest neighbours.' : 'Point at the map to see an object, click to choose it. Its nearest neighbours appear here.'));
    put('near');
    put('values');
    return;
  }
  const i = chosen, top = make('div', null, { className: 'top' }), text = make('div');
  text.append(make('div', data.ids[i], { className: 'id' }));
  if (position(i)) text.append(make('div', position(i), { className: 'where' }), sky(i));
  if (labels.has(i)) text.append(make('span', labelName(labels.get(i)), { className: 'chip' }));
  top.append(picture(i, 140), text);
  put('object', top);
  put('values', make('h2', 'Catalogue'), values(columns, i));
  showNear(i);
}

function sky(i) {
  const o = make('div');
  for (const { name, url, south } of data.viewers) {
    if (dec[i] < south) continue;
    const href = url.replace('{ra}', ra[i].toFixed(6)).replace('{dec}', dec[i].toFixed(6));
    o.append(make('a', name, { href, target: '_blank', rel: 'noopener noreferrer' }), ' ');
  }
  return o;
}

function showNear(i) {
  if (!near) return put('near');
  const grid = make('div', null, { className: 'grid' }), column = columns.find(c => c.name === colour);
  for (let j = i * near.k; j < (i + 1) * near.k; j++) {
    const other = near.rows[j];
    if (other < 0) continue;
    const said = column ? value(column, other) : (near.scores[j] / 1e4).toFixed(2);
    const o = make('button', null, { title: `${data.ids[other]}, cosine ${(near.scores[j] / 1e4).toFixed(4)}`, onclick: () => choose(other, true) });
    o.append(picture(other), make('span', said, { className: 'value' }));
    o.dataset.id = data.ids[other];
    grid.append(o);
  }
  put('near', make('h2', grid.children.length ? `The ${grid.children.length} nearest of those shown${column ? `, and their ${column.name}` : ', by cosine'}` : 'It has no embedding, and so no neighbours'), grid);
}

function choose(i, show = false) {
  chosen = i;
  showObject();
  showLabels();
  marks();
  if (i !== null && show && !inView(i)) plot.zoomToLocation([gx[i], gy[i]], plot.get('cameraDistance')).then(marks);
}

function select(rows) {
  selection = rows;
  $('selection').hidden = !rows.length;
  plot.set({ opacityInactiveScale: rows.length ? .25 : 1 });
  rows.length ? plot.select(rows, { preventEvent: true }) : plot.deselect({ preventEvent: true });
  const clear = make('button', 'Clear', { onclick: () => select([]) });
  const all = make('button', `Label all ${labelName(0)}`, { title: 'Shift and a digit does this, too', onclick: () => label(selection, 0) });
  const buttons = make('div', null, { className: 'buttons' });
  buttons.append(all, clear);
  put('selection', make('h2', `${count(rows.length)} selected`), make('p', phone.matches ? '' : 'N and P step through them; Shift and a digit labels all.'), buttons);
  marks();
}

function step(by) {
  const rows = selection.length ? selection : null, size = rows ? rows.length : n;
  const at = rows ? rows.indexOf(chosen) : chosen ?? -1;
  const next = at < 0 ? by > 0 ? 0 : size - 1 : (at + by + size) % size;
  choose(rows ? rows[next] : next, true);
}

// ---- colours

const MISSING = data.palettes.missing;
let colour = '';

// what each object is painted with: codes into a list of colours, and what the legend says
function coding(name) {
  if (name === 'label') {
    const codes = Float32Array.from({ length: n }, (_, i) => labels.has(i) ? labels.get(i) : 9);
    return byCategory('label', codes, [...names.map((_, k) => labelName(k)), 'none yet']);
  }
  const c = columns.find(c => c.name === name);
  if (!c) return { codes: new Float32Array(n), colours: [data.palettes.plain] };
  if (c.kind === 'category') return byCategory(c.name, c.data, c.values);
  const known = c.data.filter(Number.isFinite).sort();
  const low = known[Math.floor(.02 * (known.length - 1))] ?? 0, high = known[Math.ceil(.98 * (known.length - 1))] ?? 1;
  const steps = data.palettes.continuous.length;
  const codes = Float32Array.from(c.data, v => Number.isFinite(v) ? Math.max(0, Math.min(steps - 1, Math.floor((v - low) / (high - low || 1) * steps))) : steps);
  return { name, codes, colours: [...data.palettes.continuous, MISSING], ends: [low, high], missing: n - known.length };
}

// the most frequent have colours of their own; the others share one
function byCategory(name, codes, values) {
  const counts = new Array(values.length).fill(0);
  let missing = 0;
  for (const v of codes) v < 0 ? missing++ : counts[v]++;
  const own = data.palettes.categorical, isLabel = name === 'label';
  const order = counts.map((_, k) => k).filter(k => counts[k] && !(isLabel && k === 9)).sort((a, b) => counts[b] - counts[a] || a - b);
  const ranks = new Map(order.slice(0, own.length).map((k, r) => [k, isLabel ? k % own.length : r]));
  const painted = Float32Array.from(codes, v => ranks.get(v) ?? own.length);
  const entries = order.slice(0, own.length).map(k => ({ text: values[k], n: counts[k], colour: own[ranks.get(k)], has: v => v === k }));
  const rest = n - entries.reduce((s, e) => s + e.n, 0);
  if (rest) entries.push({ text: isLabel ? 'no label' : missing === rest ? 'not known' : 'all others', n: rest, colour: MISSING, has: v => !ranks.has(v) });
  return { name, codes: painted, of: codes, colours: [...own, MISSING], entries };
}

let gx, gy, plot, drawing = Promise.resolve();

function paint() {
  const code = coding(colour);
  legend(code);
  plot.set({ colorBy: 'valueA', pointColor: code.colours });
  drawing = drawing.then(() => plot.draw({ x: gx, y: gy, valueA: code.codes }, { zDataType: 'categorical', spatialIndex: plot.get('spatialIndex'), select: selection })).then(marks);
  return drawing;
}

function legend({ name, entries, colours, ends, missing, of }) {
  if (!name) return put('legend');
  const box = make('details', null, { open: $('legend').firstChild ? $('legend').firstChild.open : !phone.matches });
  box.append(make('summary', name));
  put('legend', box);
  if (entries) return box.append(...entries.map(e => {
    const o = make('button', null, { title: 'Select these', onclick: () => select([...of.keys()].filter(i => e.has(of[i]))) });
    o.append(swatch(e.colour), make('span', e.text), make('span', count(e.n), { className: 'n' }));
    return o;
  }));
  const bar = make('div', null, { className: 'bar' }), line = make('div', null, { className: 'ends' });
  bar.style.background = `linear-gradient(90deg, ${colours.slice(0, -1).join(',')})`;
  line.append(...ends.map(v => make('span', String(+v.toPrecision(4)))));
  const gap = make('div', null, { hidden: !missing });
  gap.append(swatch(MISSING), ` not known: ${count(missing)}`);
  box.append(bar, line, gap);
}

function swatch(colour) {
  const o = make('i');
  o.style.cssText = `display:inline-block;background:${colour}`;
  return o;
}

// ---- the map

function frame() {
  const range = v => { let a = Infinity, b = -Infinity; for (const o of v) { if (o < a) a = o; if (o > b) b = o; } return [a, b]; };
  const [x0, x1] = range(x), [y0, y1] = range(y), half = Math.max(x1 - x0, y1 - y0) / 2 || 1;
  gx = x.map(v => .95 * (v - (x0 + x1) / 2) / half);
  gy = y.map(v => .95 * (v - (y0 + y1) / 2) / half);
}

const size = () => { const { width, height } = $('map').getBoundingClientRect(); return { width, height }; };
const whole = () => plot.zoomToLocation([0, 0], Math.max(1, size().height / size().width)).then(marks);

function inView(i) {
  const at = plot.getScreenPosition(i), { width, height } = size();
  return at && at[0] > 10 && at[1] > 10 && at[0] < width - 10 && at[1] < height - 10;
}

function ring(ctx, i, radius, colour) {
  const at = plot.getScreenPosition(i);
  if (!at) return;
  ctx.strokeStyle = colour;
  ctx.beginPath();
  ctx.arc(at[0], at[1], radius, 0, 7);
  ctx.stroke();
}

// rings around the chosen object and its neighbours, digits at what has a label
function marks() {
  if (!plot || !plot.get('isPointsDrawn')) return;
  const canvas = $('marks'), { width, height } = size(), dpr = window.devicePixelRatio || 1;
  canvas.width = width * dpr;
  canvas.height = height * dpr;
  const ctx = canvas.getContext('2d');
  ctx.scale(dpr, dpr);
  ctx.font = '600 11px system-ui, sans-serif';
  ctx.fillStyle = '#fff';
  ctx.strokeStyle = '#000';
  ctx.lineWidth = 3;
  for (const [i, k] of [...labels].slice(-1000)) {
    const at = plot.getScreenPosition(i);
    if (!at) continue;
    ctx.strokeText(k + 1, at[0] + 5, at[1] - 4);
    ctx.fillText(k + 1, at[0] + 5, at[1] - 4);
  }
  if (chosen === null) return;
  ctx.lineWidth = 1.5;
  if (near) for (const j of near.rows.slice(chosen * near.k, (chosen + 1) * near.k)) if (j >= 0) ring(ctx, j, 6, '#fff');
  ctx.lineWidth = 2.5;
  ring(ctx, chosen, 9, '#ffd166');
}

function hover(i) {
  hovered = i;
  const tip = $('tip');
  tip.hidden = i === null || fingers;
  if (tip.hidden) return;
  const text = make('div');
  text.append(make('b', data.ids[i]));
  if (position(i)) text.append(make('div', position(i)));
  text.append(values([...columns].sort((a, b) => (b.name === colour) - (a.name === colour)).slice(0, 8), i));
  tip.replaceChildren(picture(i, 104), text);
  const [px, py] = plot.getScreenPosition(i), { width, height } = size(), box = tip.getBoundingClientRect();
  const left = px + 14 + box.width > width ? px - 14 - box.width : px + 14;
  tip.style.transform = `translate(${Math.max(4, left)}px, ${Math.max(4, Math.min(height - box.height - 4, py - box.height / 2))}px)`;
}

function setLasso(on) {
  $('lasso').setAttribute('aria-pressed', on);
  plot.set({ mouseMode: on ? 'lasso' : 'panZoom' });
}

async function start() {
  frame();
  const canvas = $('points');
  const small = n < 3000 ? 7 : n < 15000 ? 5 : 3;
  plot = createScatterplot({
    canvas, ...size(), pointSize: small, pointSizeSelected: 1, opacityBy: 'density', opacityByDensityFill: .25,
    backgroundColor: '#0d1117', pointColorHover: '#ffffff', pointColorActive: '#ffffff', pointOutlineWidth: 1, lassoColor: '#ffd166', deselectOnDblClick: false, deselectOnEscape: false,
  });
  if (!plot.isSupported) throw new Error('no float textures');
  let drawn = false;
  plot.subscribe('pointOver', hover);
  plot.subscribe('pointOut', () => hover(null));
  plot.subscribe('lassoStart', () => { drawn = true; hover(null); });
  plot.subscribe('select', ({ points }) => {
    if (drawn) return select([...points]);
    choose(points[0]);
    select(selection);
  });
  plot.subscribe('deselect', () => { if (drawn) select([]); });
  plot.subscribe('lassoEnd', () => { drawn = false; setLasso(false); });
  plot.subscribe('view', () => { hover(null); marks(); });
  new ResizeObserver(() => { plot.set(size()); requestAnimationFrame(marks); }).observe($('map'));
  touch(canvas);
  colour = data.colour;
  await paint();
  await whole();
}

// fingers as mouse and wheel: one moves the map or draws, two zoom
function touch(canvas) {
  let last = null, spread = 0;
  const middle = t => t.length > 1 ? { clientX: (t[0].clientX + t[1].clientX) / 2, clientY: (t[0].clientY + t[1].clientY) / 2 } : { clientX: t[0].clientX, clientY: t[0].clientY };
  const gap = t => Math.hypot(t[0].clientX - t[1].clientX, t[0].clientY - t[1].clientY);
  const send = (type, at, buttons, more = {}) => canvas.dispatchEvent(new (type === 'wheel' ? WheelEvent : MouseEvent)(type, { bubbles: true, cancelable: true, view: window, buttons, ...at, ...more }));
  const began = e => {
    e.preventDefault();
    fingers = true;
    if (last) send('mouseup', last, 0);
    last = middle(e.touches);
    spread = e.touches.length > 1 ? gap(e.touches) : 0;
    send('mousemove', last, 0);
    send('mousedown', last, 1);
  };
  canvas.addEventListener('touchstart', began, { passive: false });
  canvas.addEventListener('touchmove', e => {
    e.preventDefault();
    last = middle(e.touches);
    send('mousemove', last, 1);
    if (e.touches.length < 2) return;
    send('wheel', last, 1, { deltaY: -size().height * Math.log(gap(e.touches) / spread) });
    spread = gap(e.touches);
  }, { passive: false });
  canvas.addEventListener('touchend', e => {
    e.preventDefault();
    if (e.touches.length) return began(e);
    send('mouseup', last, 0);
    send('click', last, 0);
    hover(null);
    last = null;
  }, { passive: false });
}

// ---- search

const radians = Math.PI / 180;

function separation(i, ra0, dec0) {
  const a = Math.sin((dec[i] - dec0) * radians / 2), b = Math.sin((ra[i] - ra0) * radians / 2);
  return 2 * Math.asin(Math.min(1, Math.sqrt(a * a + Math.cos(dec[i] * radians) * Math.cos(dec0 * radians) * b * b))) / radians;
}

function asAngle(d) {
  return d < 1 / 60 ? `${+(d * 3600).toPrecision(3)}″` : d < 1 ? `${+(d * 60).toPrecision(3)}′` : `${+d.toPrecision(4)}°`;
}

function byPosition(ra0, dec0) {
  const all = [];
  for (let i = 0; i < n; i++) if (!Number.isNaN(ra[i])) all.push({ i, d: separation(i, ra0, dec0) });
  return all.sort((a, b) => a.d - b.d).slice(0, 8).map(({ i, d }) => ({ i, said: asAngle(d) }));
}

function find(text) {
  const q = text.trim(), low = q.toLowerCase(), found = [[], [], []];
  if (!q) return [];
  for (let i = 0; i < n; i++) {
    const id = data.ids[i].toLowerCase(), at = id.indexOf(low);
    if (at >= 0) found[id === low ? 0 : at ? 2 : 1].push({ i, said: '' });
  }
  const sky = /^([+-]?\d+(?:\.\d*)?)[\s,;]+([+-]?\d+(?:\.\d*)?)$/.exec(q);
  if (sky && !found[0].length) return byPosition(+sky[1], +sky[2]);
  return found.flat().slice(0, 8);
}

let hits = [], at = 0;

function showHits() {
  const list = $('hits'), typed = $('search').value.trim();
  list.hidden = !typed;
  $('search').setAttribute('aria-expanded', String(!!typed));
  if (typed && !hits.length) return list.replaceChildren(make('li', 'No such object among those shown'));
  list.replaceChildren(...hits.map(({ i, said }, k) => {
    const o = make('li', null, { role: 'option', id: `hit${k}`, onmousedown: e => { e.preventDefault(); take(k); } });
    o.setAttribute('aria-selected', String(k === at));
    o.append(picture(i, 28), make('span', data.ids[i]), make('small', said));
    return o;
  }));
  $('search').setAttribute('aria-activedescendant', hits.length ? `hit${at}` : '');
}

function take(k) {
  const hit = hits[k];
  if (!hit) return;
  $('hits').hidden = true;
  $('search').setAttribute('aria-expanded', 'false');
  choose(hit.i, true);
  $('points').focus({ preventScroll: true });
}

$('search').oninput = () => { hits = find($('search').value); at = 0; showHits(); };
$('search').onblur = () => { $('hits').hidden = true; };
$('search').onkeydown = e => {
  if (e.key === 'Enter') take(at);
  else if (e.key === 'Escape') { $('search').value = ''; showHits(); $('points').focus({ preventScroll: true }); }
  else if (e.key === 'ArrowDown' || e.key === 'ArrowUp') {
    e.preventDefault();
    at = (at + (e.key === 'ArrowDown' ? 1 : -1) + hits.length) % (hits.length || 1);
    showHits();
  }
};

// ---- keys

const KEYS = [['/', 'search: an id or a part of it, or RA and Dec'], ['1 … 9', 'label the chosen object, or the one pointed at'], ['Shift 1 … 9', 'label all that are selected'],
  ['0', 'take its label away'], ['D', 'download all labels: id, label'], ['N  P', 'next, previous object: of the selection, or along the map'], ['L', 'lasso: draw around objects (or Shift and drag)'],
  ['Esc', 'clear the selection, then the choice'], ['← → ↑ ↓', 'move the map'], ['+  −', 'zoom'], ['H', 'the whole map'], ['?', 'this list']];

function showKeys(on) {
  $('keys').hidden = !on;
  $('help').setAttribute('aria-expanded', String(on));
}

function moveMap(dx, dy, by = 1) {
  const [tx, ty] = plot.get('cameraTarget'), d = plot.get('cameraDistance');
  plot.zoomToLocation([tx + dx * d, ty + dy * d], d * by).then(marks);
}

const DO = {
  '/': () => { $('search').focus(); $('search').select(); }, '?': () => showKeys($('keys').hidden), d: () => labels.size && download(), n: () => step(1), p: () => step(-1),
  l: () => setLasso($('lasso').getAttribute('aria-pressed') !== 'true'), h: whole, 0: () => label(target(), null), Backspace: () => label(target(), null),
  Escape: () => { if (!$('keys').hidden) showKeys(false); else if ($('lasso').getAttribute('aria-pressed') === 'true') setLasso(false); else selection.length ? select([]) : choose(null); },
  ArrowLeft: () => moveMap(-.2, 0), ArrowRight: () => moveMap(.2, 0), ArrowUp: () => moveMap(0, .2), ArrowDown: () => moveMap(0, -.2),
  '+': () => moveMap(0, 0, .75), '=': () => moveMap(0, 0, .75), '-': () => moveMap(0, 0, 1 / .75),
};

document.addEventListener('keydown', e => {
  if (!plot || e.ctrlKey || e.metaKey || e.altKey || e.target.matches('input, select, textarea')) return;
  const digit = /^(?:Digit|Numpad)([1-9])$/.exec(e.code);
  const act = digit ? () => { const rows = e.shiftKey ? selection : target(); if (rows.length) label(rows, digit[1] - 1); } : DO[e.key.length === 1 ? e.key.toLowerCase() : e.key];
  if (!act) return;
  e.preventDefault();
  act();
});

// ---- the page

put('said', data.said);
const colourable = columns.filter(c => c.kind !== 'text');
$('colour').append(make('option', 'one colour', { value: '' }), ...colourable.map(c => make('option', c.name, { value: c.name })), make('option', 'my labels', { value: 'label' }));
$('colour').value = data.colour;
$('colour').onchange = () => { colour = $('colour').value; paint(); showObject(); };
$('lasso').onclick = DO.l;
$('home').onclick = whole;
$('help').onclick = () => showKeys($('keys').hidden);
const keyTable = make('table'), about = make('details');
for (const [key, what] of KEYS) { const row = keyTable.insertRow(); row.append(make('th'), make('td', what)); row.firstChild.append(make('kbd', key)); }
about.append(make('summary', 'Licences of what this page is made of'), make('pre', $('licences').textContent));
put('keys', keyTable, about);
showObject();
showLabels();
start().then(() => { document.body.dataset.ready = 'yes'; }, e => {
  document.body.dataset.ready = 'no';
  put('said', `The map cannot be drawn: it needs WebGL with float textures (${e.message}). Search and neighbours work.`);
});
