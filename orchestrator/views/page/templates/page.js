'use strict';
// What is typed and sorted, by table: a section that is drawn anew gets it back.
const kept = {};
const narrow = () => window.innerWidth < 600;
const color = name => getComputedStyle(document.documentElement).getPropertyValue('--' + name).trim();

function themed(layout) {
  const axis = given => ({...given, gridcolor: color('line'), linecolor: color('muted'), zerolinecolor: color('line'), tickcolor: color('muted')});
  return {
    ...layout, paper_bgcolor: 'rgba(0,0,0,0)', plot_bgcolor: 'rgba(0,0,0,0)', dragmode: false,
    font: {family: 'system-ui, sans-serif', size: 12, color: color('text')},
    hoverlabel: {bgcolor: color('page'), bordercolor: color('muted'), font: {color: color('text')}},
    xaxis: {...axis(layout.xaxis), ...(narrow() ? {nticks: 5} : {})}, yaxis: axis(layout.yaxis),
    legend: {...layout.legend, ...(narrow() ? {orientation: 'v'} : {})},
  };
}

function draw(within) {
  return Promise.all([...within.querySelectorAll('.plot')].map(async plot => {
    const {data, layout} = JSON.parse(within.querySelector(`script[data-for="${plot.id}"]`).textContent);
    const lines = layout.showlegend ? new Set(data.filter(each => each.showlegend !== false).map(each => each.name)).size : 0;
    if (narrow() && lines) plot.style.height = parseInt(plot.dataset.height ??= parseInt(plot.style.height)) + 12 * lines + 'px';
    await Plotly.newPlot(plot, data, themed(layout), {responsive: true, displayModeBar: false});
    plot.on('plotly_click', event => show(event.points[0].customdata));
  }));
}

function show(trial) {
  const row = trial && document.getElementById('trial-' + trial);
  if (!row) return;
  const filter = document.querySelector('[data-filters=all-trials]');
  if (row.hidden) { filter.value = ''; filter.dispatchEvent(new Event('input')); }
  location.hash = '';
  location.hash = row.id;
  row.focus();
}

function prepare(within) {
  for (const input of within.querySelectorAll('[data-filters]')) {
    const id = input.dataset.filters, table = document.getElementById(id), state = kept[id] ??= {text: '', column: null, down: false};
    const rows = () => [...table.tBodies[0].rows];
    const filter = () => {
      state.text = input.value;
      const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows()) { const text = row.innerText.toLowerCase() || row.textContent.toLowerCase(); row.hidden = !words.every(word => text.includes(word)); }
      const shown = rows().filter(row => !row.hidden).length;
      const count = document.querySelector(`[data-count="${id}"]`);
      count.textContent = `${words.length ? `${shown} of ` : ''}${rows().length} ${count.dataset.of}`;
    };
    const heads = [...table.tHead.rows[0].cells];
    const sort = () => {
      if (state.column === null || !heads[state.column]) return;
      const key = row => { const cell = row.cells[state.column]; return cell.dataset.sort ?? cell.textContent.trim().replace(/^-$/, ''); };
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === '' || y === '') return (x === '') - (y === '');  // what is not known comes last, either way
        const numbers = !isNaN(x) && !isNaN(y);
        const found = numbers ? x - y : x.localeCompare(y, undefined, {numeric: true});
        return state.down ? -found : found;
      };
      table.tBodies[0].append(...rows().sort(order));
      heads.forEach((head, at) => at === state.column ? head.setAttribute('aria-sort', state.down ? 'descending' : 'ascending') : head.removeAttribute('aria-sort'));
    };
    heads.forEach((head, at) => head.querySelector('button')?.addEventListener('click', () => {
      state.down = state.column === at && !state.down;
      state.column = at;
      sort();
    }));
    input.addEventListener('input', filter);
    input.value = state.text;
    sort();
    filter();
  }
  for (const button of within.querySelectorAll('.overlays')) button.addEventListener('click', () => {
    const hidden = button.closest('section').classList.toggle('plain');
    button.closest('section').querySelectorAll('.overlays').forEach(each => each.setAttribute('aria-pressed', !hidden));
  });
  for (const button of within.querySelectorAll('[data-stop]')) button.addEventListener('click', () => stop(button));
}

async function load() {
  const code = document.getElementById('plotly-code');
  if (code) {
    if (!window.DecompressionStream) throw new Error('this browser is too old to unpack the code of the figures');
    const bytes = Uint8Array.from(atob(code.textContent), each => each.charCodeAt(0));
    const text = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))).text();
    const script = document.createElement('script');
    script.textContent = text;
    document.head.append(script);
    code.remove();
  }
  await draw(document);
}

// --- a live page: what has changed is asked for every second, and drawn anew

const token = document.body.dataset.token;
const EVERY = 1000;

async function stop(button) {
  const {stop: trial, sweep} = button.dataset;
  if (!confirm(`Stop trial ${trial}? It ends with the epochs that it has, and is not taken up again.`)) return;
  button.disabled = true;
  const answer = await fetch('/stop', {
    method: 'POST', headers: {'Content-Type': 'application/json', 'X-Cpcnn-Token': token}, body: JSON.stringify({sweep, trial}),
  });
  told(answer.ok ? `Trial ${trial} is asked to stop.` : `Trial ${trial} was not stopped: ${(await answer.json()).error}`);
}

function say(text) { document.getElementById('state').textContent = text; }
function told(text) { document.getElementById('told').textContent = text; }

function replace(section, made) {
  const open = [...section.querySelectorAll('details')].map(each => each.open);
  const focused = section.contains(document.activeElement) ? document.activeElement.id : '';
  section.querySelectorAll('.plot').forEach(plot => Plotly.purge(plot));
  section.innerHTML = made;
  section.querySelectorAll('details').forEach((each, at) => each.open = !!open[at]);
  prepare(section);
  if (focused) document.getElementById(focused)?.focus();
}

async function renew() {
  const answer = await fetch('/sections.json');
  const sections = await answer.json();
  if (!answer.ok) throw new Error(sections.error);
  const changed = Object.entries(sections.digests).map(([id, digest]) => [document.getElementById(id), digest])
    .filter(([section, digest]) => section && section.dataset.digest !== digest);
  const made = await Promise.all(changed.map(async ([section]) => (await fetch(`/sections/${section.id}`)).text()));
  changed.forEach(([section, digest], at) => { replace(section, made[at]); section.dataset.digest = digest; });
  say(sections.state);
  // Texts and tables are there at once; figures take longer, those first that are looked at.
  const away = section => Math.abs(section.getBoundingClientRect().top);
  for (const [section] of changed.sort(([a], [b]) => away(a) - away(b))) await draw(section);
}

async function follow() {
  for (;;) {
    try { await renew(); } catch (error) { say(`The program that serves this page does not answer (${error.message}).`); }
    await new Promise(done => setTimeout(done, EVERY));
  }
}

prepare(document);
window.drawn = load().then(() => { if (token) follow(); });
window.drawn.catch(error => document.querySelectorAll('.plot').forEach(plot => plot.textContent = `Not drawn: ${error.message}.`));
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => draw(document));
