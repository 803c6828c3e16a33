"use strict";
// The researcher's page. The token comes behind the # of the address, which browsers do not send, and travels in a header alone.

const $ = id => document.getElementById(id);
const REFRESH = 10_000;
let token = location.hash.slice(1);
try { token = token || sessionStorage.getItem("ask-token") || ""; } catch { /* a browser without storage asks again */ }
if (location.hash) history.replaceState(null, "", location.pathname);

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}
function rowHead(text) {
  const head = make("th", text);
  head.scope = "row";
  return head;
}
async function call(path, body) {
  const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };
  const options = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  const response = await fetch(path, options);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw { status: response.status, message: answer.error || `error ${response.status}` };
  return answer;
}

async function refresh() {
  if (!token) return askForToken("");
  try {
    draw(await call("/researcher/data"));
    try { sessionStorage.setItem("ask-token", token); } catch { /* see above */ }
    $("problem-line").hidden = true;
    setTimeout(refresh, REFRESH);
  } catch (error) {
    if (error.status === 401) return askForToken(error.message);
    $("problem-line").textContent = error.message || "the study does not answer: is it still running?";
    $("problem-line").hidden = false;
    setTimeout(refresh, REFRESH);
  }
}
function askForToken(text) {
  $("login").hidden = false;
  $("data").hidden = true;
  $("problem-line").textContent = text;
  $("problem-line").hidden = !text;
}
$("login").addEventListener("submit", event => {
  event.preventDefault();
  token = $("token").value.trim();
  $("login").hidden = true;
  refresh();
});

const percent = share => share === null ? "" : `${Math.round(100 * share)} %`;

function draw(data) {
  $("data").hidden = false;
  const figures = { "answers": data.answers, "of them count": data.counted, "people": data.people.length,
    "finished": data.people.filter(one => one.answers >= data.trials).length, "objects": data.objects, "images": data.images };
  $("figures").replaceChildren(...Object.entries(figures).map(([name, value]) => {
    const box = make("span", name);
    box.prepend(make("b", value.toLocaleString("en")));
    return box;
  }));
  $("notes").textContent = data.notes.join("; ");
  drawHours(data.hours);
  $("model").hidden = !data.model;
  if (data.model) {
    const [share, low, high, count] = data.model;
    $("model").textContent = `The model of people, fitted to earlier answers, predicts ${(100 * share).toFixed(1)} % `
      + `[${(100 * low).toFixed(1)}, ${(100 * high).toFixed(1)}] of the last ${count} answers to random questions (chance ${(100 * data.chance).toFixed(1)} %).`;
  }
  drawOutlook(data.outlook, data.chance);
  $("rule").textContent = data.rule;
  // A list that is open under somebody's hand is not replaced.
  if (document.activeElement?.tagName !== "SELECT") $("people").replaceChildren(...data.people.map(row));
  $("left-out").hidden = !data.left_out.length;
  $("left-out").querySelector("summary").textContent = `Images that could not be read and are left out: ${data.left_out.length}`;
  $("left-out").querySelector("ul").replaceChildren(...data.left_out.map(one => make("li", `${one.path}: ${one.reason}`)));
}
function drawOutlook(outlook, chance) {
  $("outlook").hidden = !outlook;
  if (!outlook) return;
  const { points, forecast, tested, advice } = outlook;
  const points100 = share => `${share < 0 ? "" : "+"}${(100 * share).toFixed(1)}`;
  $("advice").textContent = advice[0].toUpperCase() + advice.slice(1) + ".";
  $("forecast").textContent = `${forecast.more.toLocaleString("en")} more answers are expected to bring `
    + `${points100(forecast.gain)} points [${points100(forecast.low)}, ${points100(forecast.high)}]. A model of people that saw some of the answers `
    + `predicts ${tested.toLocaleString("en")} others to random questions (chance ${(100 * chance).toFixed(1)} %):`;
  $("curve").replaceChildren(...points.map(point => {
    const line = make("tr");
    const head = rowHead(point.answers.toLocaleString("en"));
    const text = `${(100 * point.accuracy).toFixed(1)} % [${(100 * point.low).toFixed(1)}, ${(100 * point.high).toFixed(1)}]`;
    line.append(head, make("td", text));
    return line;
  }));
}
function drawHours(hours) {
  const most = Math.max(1, ...hours.map(([, count]) => count));
  $("hours").replaceChildren(...hours.map(([start, count]) => {
    const bar = make("i");
    bar.style.height = `${100 * count / most}%`;
    bar.title = `${new Date(1000 * start).toLocaleString()}: ${count}`;
    return bar;
  }));
  const total = hours.reduce((sum, [, count]) => sum + count, 0);
  $("hours").setAttribute("aria-label", `${total} answers in ${hours.length} hours, at most ${most} an hour`);
  const first = hours.length ? new Date(1000 * hours[0][0]).toLocaleString() : "";
  $("span").textContent = hours.length ? `from ${first}, at most ${most} an hour` : "no answers yet";
}
function row(one) {
  const line = make("tr", undefined, one.counts ? "" : "out");
  const time = one.median_rt === null ? "" : `${Math.round(one.median_rt)} ms`;
  const cells = [`${one.answers}`, time, `picture ${one.side_label}: ${percent(one.side_share)}`,
    one.repeats ? `${one.consistent} of ${one.repeats}` : "", one.catch ? `${one.catch_failed} of ${one.catch}` : "",
    one.counts ? "yes" : "no"];
  line.append(rowHead(one.name), ...cells.map(text => make("td", text)), make("td", one.reasons.join("; "), "left"));
  const select = make("select");
  select.setAttribute("aria-label", `decision about ${one.name}`);
  for (const [value, text] of [["", "the rule"], ["keep", "keep"], ["leave out", "leave out"]]) {
    const option = make("option", text);
    option.value = value;
    option.selected = value === one.decision;
    select.append(option);
  }
  select.addEventListener("change", async () => {
    try {
      await call("/researcher/decision", { person: one.person, decision: select.value });
      select.blur();
      draw(await call("/researcher/data"));
    } catch (error) {
      $("problem-line").textContent = error.message;
      $("problem-line").hidden = false;
    }
  });
  const cell = make("td");
  cell.append(select);
  line.append(cell);
  // On a narrow page the cells are a list, each under its column's heading; what is no table any more is called one.
  const headings = document.querySelectorAll(".stacked thead th");
  line.setAttribute("role", "row");
  [...line.cells].forEach((one, column) => {
    one.dataset.heading = headings[column].textContent;
    one.setAttribute("role", column ? "cell" : "rowheader");
  });
  return line;
}
refresh();
