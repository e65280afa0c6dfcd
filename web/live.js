// Hide a part of an object, and see what a masked autoencoder makes of the rest: the model runs in this page, by ONNX Runtime.
import * as ort from 'onnxruntime-web/wasm';

const $ = id => document.getElementById(id);
const make = (name, at, ...inside) => { const e = document.createElement(name); Object.assign(e, at); e.append(...inside); return e; };
const plan = JSON.parse($('plan').textContent);
const { bands, size: [H, W], cells: [rows, cols], turns, objects } = plan;
const C = bands.length, N = H * W, L = rows * cols, cell = H / rows;

// What is in the page: base64 of gzip
async function unpack(id) {
  const text = atob($(id).textContent), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  $(id).remove();
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).arrayBuffer();
}

async function modelBytes() {
  if ($('model')) return unpack('model');
  try {
    const found = await fetch('model.onnx');
    if (found.ok) return await found.arrayBuffer();
  } catch { /* said below */ }
  throw Error('The model is too large to be in this file, and model.onnx beside it cannot be read: browsers read it only from a server, such as the one of `python -m http.server` in this folder.');
}

// The model ------------------------------------------------------------------------------------------------------------------

let session;
const places = (mask, value) => { const found = []; mask.forEach((m, i) => { if (!!m === value) found.push(BigInt(i)); }); return new ort.Tensor('int64', BigInt64Array.from(found), [1, found.length]); };

async function ask(seen, hidden) {
  const images = new ort.Tensor('float32', seen, [1, C, H, W]);
  const channels = plan.channels, mask = new Uint8Array(channels * L);
  for (let c = 0; c < channels; c++) mask.set(hidden, c * L);
  const inputs = turns === 'rank' ? { images, visible: places(hidden, false), hidden: places(hidden, true) } : { images, mask: new ort.Tensor('bool', mask, [1, channels, L]) };
  return (await session.run(inputs)).believed.data;
}

const cellOf = Int32Array.from({ length: N }, (_, i) => Math.floor(Math.floor(i / W) / cell) * cols + Math.floor(i % W / cell));

// The visible cells that are hidden in their turn, so that pixels missing there are predicted too; as `reconstruct` does
function* inTurn(hidden) {
  if (turns === 'none') return;
  let rank = 0;
  const place = Array.from(hidden, (h, i) => turns === 'rank' ? (h ? -1 : rank++) : i);
  for (let turn = 0; turn < 4; turn++) {
    const also = Uint8Array.from(hidden, (h, i) => !h && place[i] % 4 === turn);
    if (also.some(Boolean) && !(turns === 'rank' && also.every((a, i) => a || hidden[i]))) yield also;
  }
}

async function believe(x, hidden) {
  const seen = Float32Array.from(x, (v, i) => hidden[cellOf[i % N]] || !Number.isFinite(v) ? NaN : v);
  const found = Float32Array.from(await ask(seen, hidden));
  if (seen.some((v, i) => Number.isNaN(v) && !hidden[cellOf[i % N]])) {
    for (const also of inTurn(hidden)) {
      const again = await ask(seen, hidden.map((h, i) => h | also[i]));
      again.forEach((v, i) => { if (also[cellOf[i % N]]) found[i] = v; });
    }
  }
  return found.map((v, i) => Number.isNaN(seen[i]) ? v : seen[i]);
}

// Pictures -------------------------------------------------------------------------------------------------------------------

// As astromask.plots.colour_image, under the scale that was found there
function colour(x, s) {
  const out = new Uint8ClampedArray(4 * N).fill(255);
  const y = s.channels.map((c, k) => Float32Array.from({ length: N }, (_, i) => s.ready ? x[c * N + i] : (x[c * N + i] - s.black[k]) * s.weight[k]));
  const there = y.map(v => v.some(Number.isFinite)), present = there.filter(Boolean).length;
  for (let i = 0; i < N; i++) {
    const finite = y.map(v => Number.isFinite(v[i])), valid = finite.filter(Boolean).length === present && present;
    const mean = y.reduce((sum, v, k) => sum + (finite[k] ? v[i] : 0), 0) / Math.max(present, 1);
    let p = y.map((v, k) => there[k] ? v[i] : valid ? mean : NaN);
    if (!p.every(Number.isFinite)) { out.fill(115, 4 * i, 4 * i + 3); continue; }
    if (s.ready) p = p.map(v => v / 255);
    else {
      const grey = (p[0] + p[1] + p[2]) / 3, f = Math.min(Math.max(grey / s.soft, 0), 1) ** 2;
      p = p.map(v => grey + (v - grey) * f);
      const top = Math.max(...p), stretch = top > 0 ? Math.asinh(top / s.soft) / Math.asinh(s.peak / s.soft) / top : 0;
      p = p.map(v => .04 + .96 * v * stretch);
      const most = Math.max(...p, 1);
      p = p.map(v => v / most);
    }
    for (let k = 0; k < 3; k++) out[4 * i + k] = 255 * p[k];
  }
  return out;
}

function oneBand(x, c, s) {
  const out = new Uint8ClampedArray(4 * N).fill(255), soft = 3 * s.noise[c];
  for (let i = 0; i < N; i++) {
    const v = x[c * N + i], t = s.ready ? v / 255 : .04 + .96 * Math.asinh(Math.max(v - s.sky[c], 0) / soft) / Math.asinh(Math.max(s.top[c] - s.sky[c], 12 * soft) / soft);
    out.fill(Number.isFinite(v) ? 255 * t : 115, 4 * i, 4 * i + 3);
  }
  return out;
}

const ENDS = [[0x58, 0xb0, 0xff], [0xff, 0x9d, 0x45]], DARK = [0x10, 0x15, 0x1c];
function differences(d) {
  const out = new Uint8ClampedArray(4 * N).fill(255);
  for (let i = 0; i < N; i++) {
    const t = Math.min(Math.asinh(Math.abs(d[i])) / Math.asinh(10), 1), end = ENDS[+(d[i] > 0)];
    for (let k = 0; k < 3; k++) out[4 * i + k] = DARK[k] + t * (end[k] - DARK[k]);
  }
  return out;
}

const upward = plan.origin === 'lower';        // Is row 0 at the bottom?
const sheet = make('canvas', { width: W, height: H });
function paint(canvas, rgba, scale = Math.max(1, Math.ceil(448 / Math.max(H, W)))) {
  const image = new ImageData(W, H);
  for (let r = 0; r < H; r++) image.data.set(rgba.subarray(4 * r * W, 4 * (r + 1) * W), 4 * (upward ? H - 1 - r : r) * W);
  sheet.getContext('2d').putImageData(image, 0, 0);
  canvas.width = W * scale; canvas.height = H * scale;
  const g = canvas.getContext('2d');
  g.imageSmoothingEnabled = false;
  g.drawImage(sheet, 0, 0, canvas.width, canvas.height);
  return g;
}

const hatch = (() => {
  const c = make('canvas', { width: 12, height: 12 }), g = c.getContext('2d');
  g.fillStyle = '#20262f'; g.fillRect(0, 0, 12, 12);
  g.strokeStyle = '#39424e'; g.lineWidth = 1.5;
  for (const o of [-12, 0, 12]) { g.beginPath(); g.moveTo(o, 12); g.lineTo(o + 12, 0); g.stroke(); }
  return c;
})();

// What is chosen -------------------------------------------------------------------------------------------------------------

const live = globalThis.live = { plan, object: 0, hidden: new Uint8Array(L), off: new Set(), seed: 1, view: 'colour', at: Math.floor(rows / 2) * cols + Math.floor(cols / 2), x: null, believed: null, error: null };
let pixels, cursor = false, wanted = 0;

const truth = (n = live.object) => pixels.subarray(n * C * N, (n + 1) * C * N);
const given = () => { const x = Float32Array.from(truth()); for (const b of live.off) x.fill(NaN, b * N, (b + 1) * N); return x; };
const show = x => live.view === 'colour' ? colour(x, objects[live.object]) : oneBand(x, live.view, objects[live.object]);
const nHidden = () => live.hidden.reduce((a, b) => a + b, 0);

function random(seed) {        // mulberry32
  return () => { seed = seed + 0x6D2B79F5 | 0; let t = Math.imul(seed ^ seed >>> 15, 1 | seed); t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t; return ((t ^ t >>> 14) >>> 0) / 4294967296; };
}

// The share of squares that are hidden as one; of more, those of less are a part
function drawMask(share) {
  const k = plan.block, across = cols / k, n = L / k / k, next = random(live.seed * 7919);
  const order = Array.from({ length: n }, (_, i) => [next(), i]).sort((a, b) => a[0] - b[0]).map(o => o[1]);
  const chosen = new Set(order.slice(0, n - Math.max(1, Math.floor(n * (1 - share) + 1e-6))));
  live.hidden = Uint8Array.from(live.hidden, (_, i) => chosen.has(Math.floor(Math.floor(i / cols) / k) * across + Math.floor(i % cols / k)));
}

function set(i, value) {       // One cell must stay visible
  if (value && !live.hidden[i] && nHidden() === L - 1) return;
  live.hidden[i] = value;
}

const brush = Math.max(1, Math.round(Math.min(rows, cols) / 10));
function stroke(r, c, value) {
  const low = Math.floor((brush - 1) / 2);
  for (let i = r - low; i < r - low + brush; i++) for (let j = c - low; j < c - low + brush; j++) if (i >= 0 && j >= 0 && i < rows && j < cols) set(i * cols + j, value);
}

// Drawing --------------------------------------------------------------------------------------------------------------------

function drawSeen(slid) {
  const canvas = $('sees'), g = paint(canvas, show(given()));
  const w = canvas.width / cols, h = canvas.height / rows, place = i => [i % cols * w, (upward ? rows - 1 - Math.floor(i / cols) : Math.floor(i / cols)) * h];
  g.fillStyle = g.createPattern(hatch, 'repeat');
  live.hidden.forEach((v, i) => { if (v) g.fillRect(...place(i), w, h); });
  g.strokeStyle = '#ffffff1c'; g.lineWidth = 1;
  for (let i = 1; i < cols; i++) { g.beginPath(); g.moveTo(i * w, 0); g.lineTo(i * w, canvas.height); g.stroke(); }
  for (let i = 1; i < rows; i++) { g.beginPath(); g.moveTo(0, i * h); g.lineTo(canvas.width, i * h); g.stroke(); }
  if (cursor) { const [x, y] = place(live.at); g.strokeStyle = '#ffd166'; g.lineWidth = 4; g.strokeRect(x + 2, y + 2, w - 4, h - 4); }
  const n = nHidden(), share = Math.round(100 * n / L);
  $('count').textContent = `${n} of ${L} are hidden.`;
  $('share').textContent = `${share} %`;
  $('ratio').value = slid ?? share;          // where it was put, though patches are counted in whole numbers
}

function measure() {
  const t = truth(), s = objects[live.object], sums = bands.map(() => [0, 0, 0]), d = new Float32Array(N), counts = new Float32Array(N);
  for (let c = 0; c < C; c++) for (let i = 0; i < N; i++) {
    const v = t[c * N + i];
    if (!Number.isFinite(v) || !(live.off.has(c) || live.hidden[cellOf[i]])) continue;
    const e = (live.believed[c * N + i] - v) / s.noise[c], empty = (s.sky[c] - v) / s.noise[c];
    sums[c][0] += e * e; sums[c][1] += empty * empty; sums[c][2]++;
    if (live.view === 'colour' || live.view === c) { d[i] += e; counts[i]++; }
  }
  return { sums, d: d.map((v, i) => counts[i] ? v / counts[i] : 0) };
}

const number = v => v < 10 ? v.toFixed(2) : v < 100 ? v.toFixed(1) : v.toFixed(0);
function drawBelieved() {
  const { sums, d } = measure();
  paint($('original'), show(truth()));
  paint($('believes'), show(live.believed));
  paint($('wrong'), differences(d));
  const total = [0, 1, 2].map(k => sums.reduce((a, s) => a + s[k], 0)), rms = k => Math.sqrt(total[k] / total[2]);
  live.error = total[2] ? rms(0) : null;
  $('error').textContent = total[2] ? `${number(rms(0))} σ off` : 'It sees all';
  $('meaning').textContent = total[2] ? `where it could not see (σ: the noise of the sky, r.m.s.). A guess of empty sky would be ${number(rms(1))} σ off; 1 σ is the noise itself.` : 'Hide patches or switch a band off.';
  bands.forEach((_, c) => { $(`band${c}`).querySelector('small').textContent = sums[c][2] ? `${number(Math.sqrt(sums[c][0] / sums[c][2]))} σ` : '\u00a0'; });
}

async function update(slid) {
  drawSeen(slid);
  wanted++;
  if (document.body.dataset.state === 'busy') return;
  document.body.dataset.state = 'busy';
  for (let done = 0; done !== wanted;) {
    done = wanted;
    await new Promise(f => setTimeout(f));          // so that a stroke of the brush goes on meanwhile
    const began = performance.now(), found = await believe(given(), live.hidden.slice());
    if (done !== wanted) continue;
    live.believed = found;
    drawBelieved();
    $('said').textContent = `${objects[live.object].title} · ${plan.facts} · ${Math.round(performance.now() - began)} ms`;
  }
  document.body.dataset.state = 'ready';
}

// Controls -------------------------------------------------------------------------------------------------------------------

function choose(n) {
  live.object = (n + objects.length) % objects.length;
  [...$('objects').children].forEach((o, i) => o.setAttribute('aria-selected', i === live.object));
  const chosen = $('objects').children[live.object];
  $('objects').setAttribute('aria-activedescendant', chosen.id);
  $('objects').scrollLeft += chosen.getBoundingClientRect().left - $('objects').getBoundingClientRect().left - $('objects').clientWidth / 2 + 30;
  update();
}

function toggle(c) {
  if (!live.off.delete(c) && live.off.size < C - 1) live.off.add(c);          // One band must stay on
  $(`band${c}`).setAttribute('aria-pressed', !live.off.has(c));
  update();
}

const acts = {
  again() { const share = nHidden() / L; live.seed++; drawMask(share); },
  middle() { live.hidden = live.hidden.map((_, i) => Math.abs(Math.floor(i / cols) - (rows - 1) / 2) < rows / 4 && Math.abs(i % cols - (cols - 1) / 2) < cols / 4 ? 1 : 0); if (nHidden() === L) set(0, 0); },
  invert() { const before = live.hidden; live.hidden = before.map(v => 1 - v); if (nHidden() === L) live.hidden[L - 1] = 0; },
  clear() { live.hidden = new Uint8Array(L); },
};

function under(e) {
  const box = $('sees').getBoundingClientRect(), at = (v, n) => Math.min(Math.max(Math.floor(v * n), 0), n - 1);
  const r = at((e.clientY - box.top) / box.height, rows), c = at((e.clientX - box.left) / box.width, cols);
  return [upward ? rows - 1 - r : r, c];
}

function brushing(canvas) {
  let last = null, value = 1;
  canvas.addEventListener('pointerdown', e => {
    if (e.button) return;
    canvas.setPointerCapture(e.pointerId);
    cursor = false;
    last = under(e);
    value = 1 - live.hidden[last[0] * cols + last[1]];
    stroke(...last, value);
    update();
  });
  canvas.addEventListener('pointermove', e => {
    if (!last) return;
    const to = under(e), n = Math.max(Math.abs(to[0] - last[0]), Math.abs(to[1] - last[1]));
    for (let k = 1; k <= n; k++) stroke(...last.map((v, i) => Math.round(v + (to[i] - v) * k / n)), value);
    if (n) { last = to; update(); }
  });
  for (const end of ['pointerup', 'pointercancel']) canvas.addEventListener(end, () => { last = null; });
}

const STEPS = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [upward ? 1 : -1, 0], ArrowDown: [upward ? -1 : 1, 0] };
function painting(e) {
  const step = STEPS[e.key];
  if (step) {
    const r = Math.min(Math.max(Math.floor(live.at / cols) + step[0], 0), rows - 1), c = Math.min(Math.max(live.at % cols + step[1], 0), cols - 1);
    live.at = r * cols + c; cursor = true; drawSeen();
  } else if (e.key === ' ' || e.key === 'Enter') { cursor = true; set(live.at, 1 - live.hidden[live.at]); update(); } else return;
  e.preventDefault();
}

function build() {
  objects.forEach((o, i) => {
    const c = make('canvas', { id: `object${i}`, title: o.title, onclick: () => choose(i) });
    c.setAttribute('role', 'option'); c.setAttribute('aria-label', o.title);
    paint(c, colour(truth(i), o), Math.max(1, Math.ceil(120 / Math.max(H, W))));
    $('objects').append(c);
  });
  $('objects').addEventListener('keydown', e => { const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[e.key]; if (step) { choose(live.object + step); e.preventDefault(); } });
  bands.forEach((b, c) => {
    const e = make('button', { id: `band${c}`, title: `Give the model band ${b}, or not`, onclick: () => toggle(c) }, make('b', { textContent: b }), make('small', {}));
    e.setAttribute('aria-pressed', true); e.style.setProperty('--hue', plan.hues[c]);
    $('bands').append(e);
  });
  $('view').append(make('option', { value: 'colour', textContent: 'colour' }), ...bands.map((b, c) => make('option', { value: c, textContent: `band ${b}` })));
  $('view').addEventListener('change', e => { live.view = e.target.value === 'colour' ? 'colour' : +e.target.value; update(); });
  $('ratio').addEventListener('input', e => { drawMask(e.target.value / 100); update(e.target.value); });
  for (const [id, act] of Object.entries(acts)) $(id).addEventListener('click', () => { act(); update(); });
  document.addEventListener('keydown', e => {
    const id = { n: 'again', m: 'middle', i: 'invert', c: 'clear' }[e.key];
    if (id && !e.ctrlKey && !e.metaKey && !e.altKey && e.target.tagName !== 'SELECT') $(id).click();
  });
  brushing($('sees'));
  $('sees').addEventListener('keydown', painting);
  $('sees').addEventListener('blur', () => { cursor = false; drawSeen(); });
  $('trained').textContent = plan.trained;
  $('texts').textContent = $('licences').textContent;
}

async function start() {
  pixels = new Float32Array(await unpack('pixels'));
  build();
  drawMask(plan.ratio);
  drawSeen();
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await unpack('wasm');
  session = await ort.InferenceSession.create(await modelBytes(), { executionProviders: ['wasm'] });
  document.body.dataset.state = 'ready';
  choose(0);
}

start().catch(e => { document.body.dataset.state = 'failed'; $('said').textContent = e.message; });
