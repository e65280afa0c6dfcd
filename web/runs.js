// Runs side by side: a table to sort, curves, parameters, figures. All it shows is in the page's own text.

const $ = id => document.getElementById(id);
const data = JSON.parse($('data').textContent);
const pictures = [...document.querySelectorAll('.sheet')].map(o => `data:image/webp;base64,${o.textContent.trim()}`);
const runs = data.runs.map((r, i) => ({ ...r, i, colour: data.colours[i % data.colours.length] }));
const numeric = data.columns.map((c, j) => runs.some(r => typeof r.cells[j] === 'number'));
let chosen = new Set(runs.filter(r => Object.keys(r.curves).length || r.figures.length).slice(0, 12).map(r => r.i));
let sorted = { column: -1, down: false };

// ---- small helpers: text only ever becomes text

function make(tag, text, attributes = {}) {
  const o = document.createElement(tag);
  if (text != null) o.textContent = text;
  for (const [k, v] of Object.entries(attributes)) k in o ? o[k] = v : o.setAttribute(k, v);
  return o;
}

function draw(tag, attributes, text) {
  const o = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [k, v] of Object.entries(attributes)) o.setAttribute(k, v);
  if (text != null) o.textContent = text;
  return o;
}

const said = v => v == null ? '–' : typeof v === 'number' ? String(+v.toPrecision(5)) : Array.isArray(v) ? v.join(', ') : String(v);
const chip = r => { const o = make('span', null, { className: 'chip' }); o.style.background = r.colour; return o; };
const shown = () => order().filter(r => chosen.has(r.i));

// ---- the table

function order() {
  const words = $('find').value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = r => [r.name, ...data.columns.map((c, j) => `${c}=${said(r.cells[j])}`)].join(' ').toLowerCase();
  const found = runs.filter(r => words.every(w => text(r).includes(w)));
  const { column, down } = sorted;
  if (column < 0) return found;
  const value = r => r.cells[column];
  const compare = (a, b) => numeric[column] ? a - b : String(a).localeCompare(String(b), 'en', { numeric: true });
  return found.sort((a, b) => {                                     // what is missing comes last, either way
    if (value(a) == null || value(b) == null) return (value(a) == null) - (value(b) == null);
    return (down ? -1 : 1) * compare(value(a), value(b));
  });
}

function heads() {
  const row = make('tr');
  data.columns.forEach((c, j) => {
    const head = make('th', null, { scope: 'col' });
    const button = make('button', c);
    button.onclick = () => { sorted = { column: j, down: sorted.column === j && !sorted.down }; show(); };
    if (sorted.column === j) head.setAttribute('aria-sort', sorted.down ? 'descending' : 'ascending');
    head.append(button);
    row.append(head);
  });
  document.querySelector('#runs thead').replaceChildren(row);
}

const KINDS = { done: 'done', failed: 'failed', killed: 'failed', 'out of memory': 'memory', missing: 'failed', running: 'running' };

function line(r) {
  const row = make('tr');
  data.columns.forEach((c, j) => {
    const cell = make('td', null, { className: numeric[j] ? 'number' : '' });
    if (j === 0) {
      const label = make('label'), box = make('input', null, { type: 'checkbox', checked: chosen.has(r.i) });
      box.onchange = () => { box.checked ? chosen.add(r.i) : chosen.delete(r.i); below(); };
      label.append(box, ' ', chip(r), r.name);
      cell.append(label);
    } else cell.textContent = said(r.cells[j]);
    if (c === 'state') cell.className = KINDS[r.cells[j]] || 'waiting';
    row.append(cell);
  });
  return row;
}

function table() {
  heads();
  const found = order();
  document.querySelector('#runs tbody').replaceChildren(...found.map(line));
  $('why').textContent = found.filter(r => r.why).map(r => `${r.name}: ${r.why}`).join('\n');
}

// ---- curves

const measures = [...new Set(runs.flatMap(r => Object.values(r.curves).flatMap(t => Object.keys(t))))];
const AXES = ['step', 'epoch', 'seconds'].filter(k => measures.includes(k));
const MEASURES = measures.filter(k => !['step', 'epoch', 'seconds', 'seconds_taken', 'stalled'].includes(k));

function points(r, name) {
  const t = Object.values(r.curves).find(o => o[name]);
  if (!t) return [];
  const x = t[$('against').value] || t.step || t[name].map((_, i) => i + 1);
  return x.map((v, i) => [v, t[name][i]]).filter(([a, b]) => a != null && b != null && !($('log').checked && b <= 0));
}

function ticks(low, high) {
  const step = 10 ** Math.floor(Math.log10((high - low) / 3));
  const each = [1, 2, 5, 10].map(k => k * step).find(k => (high - low) / k <= 5);
  const out = [];
  for (let v = Math.ceil(low / each) * each; v <= high + each * 1e-6; v += each) out.push(v);
  return out;
}

const W = 340, H = 210, LEFT = 48, RIGHT = 10, TOP = 8, FOOT = 22;

function chart(name, found) {
  const all = found.flatMap(([, p]) => p);
  const log = $('log').checked, y = v => log ? Math.log10(v) : v;
  let [left, right] = [Math.min(...all.map(p => p[0])), Math.max(...all.map(p => p[0]))];
  let [low, high] = [Math.min(...all.map(p => y(p[1]))), Math.max(...all.map(p => y(p[1])))];
  if (right === left) { left -= .5; right += .5; }
  if (high === low) { const d = Math.abs(low) * .05 || .5; low -= d; high += d; }
  const X = v => LEFT + (v - left) / (right - left) * (W - LEFT - RIGHT);
  const Y = v => H - FOOT - (y(v) - low) / (high - low) * (H - TOP - FOOT);
  const svg = draw('svg', { viewBox: `0 0 ${W} ${H}`, role: 'img', 'aria-label': `${name} of ${found.length} runs` });
  for (const t of ticks(low, high)) {
    const at = H - FOOT - (t - low) / (high - low) * (H - TOP - FOOT);
    svg.append(draw('line', { class: 'axis', x1: LEFT, x2: W - RIGHT, y1: at, y2: at }));
    svg.append(draw('text', { x: LEFT - 5, y: at + 4, 'text-anchor': 'end' }, said(log ? 10 ** t : +t.toPrecision(12))));
  }
  for (const t of ticks(left, right)) svg.append(draw('text', { x: X(t), y: H - 6, 'text-anchor': 'middle' }, said(+t.toPrecision(12))));
  for (const [r, p] of found) {
    svg.append(draw('path', { d: `M${p.map(([a, b]) => `${X(a).toFixed(1)},${Y(b).toFixed(1)}`).join('L')}`, stroke: r.colour }));
    if (p.length < 40) for (const [a, b] of p) svg.append(draw('circle', { cx: X(a), cy: Y(b), r: 2, fill: r.colour }));
  }
  svg.onpointermove = e => {
    const box = svg.getBoundingClientRect(), at = [(e.clientX - box.left) * W / box.width, (e.clientY - box.top) * H / box.height];
    let best = null;
    for (const [r, p] of found) for (const [a, b] of p) {
      const d = (X(a) - at[0]) ** 2 + (Y(b) - at[1]) ** 2;
      if (!best || d < best.d) best = { d, r, a, b };
    }
    $('tip').hidden = best.d > 900;
    $('tip').textContent = `${best.r.name}: ${said(best.b)} at ${said(best.a)}`;
    $('tip').style.left = `${Math.min(e.clientX + 12, innerWidth - 220)}px`;
    $('tip').style.top = `${e.clientY + 12}px`;
  };
  svg.onpointerleave = () => { $('tip').hidden = true; };
  return svg;
}

function curves() {
  const found = MEASURES.map(k => [k, shown().map(r => [r, points(r, k)]).filter(([, p]) => p.length)]).filter(([, o]) => o.length);
  $('curves').hidden = !MEASURES.length;
  document.querySelector('.charts').replaceChildren(...found.map(([k, o]) => {
    const figure = make('figure');
    figure.append(make('figcaption', k.replaceAll('_', ' ')), chart(k, o));
    return figure;
  }));
}

// ---- parameters

function settings() {
  const rows = shown(), names = [...new Set(rows.flatMap(r => Object.keys(r.params)))];
  const differs = k => new Set(rows.map(r => JSON.stringify(r.params[k]))).size > 1;
  const head = make('tr');
  head.append(make('th', ''), ...rows.map(r => { const o = make('th', null, { scope: 'col' }); o.append(chip(r), r.name); return o; }));
  const body = names.filter(k => $('same').checked || differs(k)).map(k => {
    const row = make('tr');
    row.append(make('th', k, { scope: 'row' }), ...rows.map(r => make('td', said(r.params[k]), { className: differs(k) ? 'differs' : '' })));
    return row;
  });
  const thead = make('thead'), tbody = make('tbody');
  thead.append(head);
  tbody.append(...body);
  document.querySelector('#settings table').replaceChildren(thead, tbody);
}

// ---- figures

const FIGURES = [...new Set(runs.flatMap(r => r.figures.map(f => f.name)))];

function figures() {
  $('figures').hidden = !FIGURES.length;
  document.querySelector('.pictures').replaceChildren(...shown().flatMap(r => r.figures.filter(f => f.name === $('which').value).map(f => {
    const figure = make('figure'), caption = make('figcaption');
    caption.append(chip(r), r.name);
    figure.append(caption, make('img', null, { src: pictures[f.picture], alt: `${f.name} of ${r.name}` }));
    return figure;
  })));
}

// ---- all of it

function below() { curves(); settings(); figures(); }
function show() { table(); below(); }

$('said').textContent = data.said;
$('against').replaceChildren(...AXES.map(k => make('option', k)));
$('which').replaceChildren(...FIGURES.map(k => make('option', k)));
if (FIGURES.includes(data.figure)) $('which').value = data.figure;
$('find').oninput = show;
for (const id of ['against', 'log']) $(id).onchange = curves;
$('same').onchange = settings;
$('which').onchange = figures;
$('all').onclick = () => { for (const r of order()) chosen.add(r.i); show(); };
$('none').onclick = () => { chosen = new Set(); show(); };
$('texts').textContent = $('licences').textContent;
show();
document.body.dataset.state = 'ready';
