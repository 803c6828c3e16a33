"use strict";
// The participant's page: welcome, questions with breaks, end. An answer is shown as taken only when the server has stored it.

const $ = id => document.getElementById(id);
const parameters = Object.fromEntries(new URLSearchParams(location.search));
const participant = parameters.participant || parameters.PROLIFIC_PID || parameters.workerId || "";
const STORE = `ask:${document.querySelector("meta[name=study]").content}:${participant}`;
const buttons = [...document.querySelectorAll(".choice")];
const images = [...document.querySelectorAll("#choices img")];
// The position, among a question's three pictures, of the one that an element shows.
const position = image => Number(image.dataset.position);

let session = remembered();
let state = null;        // what the server said last
let question = null;     // the question on the screen
let shownAt = null;      // when all three pictures were visible; null while they are not
let sincePause = 0;
let focused = null;      // the picture that had the keyboard's focus
const loading = new Map(); // number of a picture -> promise that it is in the browser's cache

// A browser may forbid storage (private windows); then the study works, but a closed tab cannot be resumed.
function remembered() {
  try { return localStorage.getItem(STORE) || ""; } catch { return ""; }
}
function remember(value) {
  session = value;
  try { localStorage.setItem(STORE, value); } catch { /* see above */ }
}

function show(name) {
  for (const id of ["welcome", "question", "pause", "end"]) $(id).hidden = id !== name;
}
function problem(text, again) {
  $("problem-text").textContent = text;
  $("problem").hidden = false;
  $("retry").hidden = !again;
  $("retry").onclick = () => { $("problem").hidden = true; again(); };
}
const pictureUrl = number => `/images/${number}`;

async function send(path, body) {
  const headers = { "Content-Type": "application/json" };
  if (session) headers.Authorization = `Bearer ${session}`;
  let response;
  try { response = await fetch(path, { method: "POST", headers, body: JSON.stringify(body) }); }
  catch { throw { retry: true, message: "Not saved: there is no connection. Try again." }; }
  const answer = await response.json().catch(() => ({}));
  if (response.ok) return answer;
  // 429: too fast; 5xx: the server could not store it. Sending the same answer once more is safe.
  const retry = response.status === 429 || response.status >= 500;
  throw { retry, status: response.status, message: answer.error || `Not saved (${response.status}). Try again.` };
}

async function begin() {
  $("begin").disabled = true;
  try {
    const answer = await send("/start", { parameters, key: location.hash.slice(1) });
    remember(answer.session);
    update(answer);
  } catch (error) {
    problem(error.message, error.retry ? begin : null);
    $("begin").disabled = false;
  }
}

function update(answer) {
  state = answer;
  if (state.finished) return finish();
  for (const one of state.next) one.images.forEach(preload);
  const isBreak = state.break_every && sincePause >= state.break_every;
  if (!isBreak) return ask();
  sincePause = 0;
  $("pause-text").textContent = `You have answered ${state.answered} of ${state.total} questions. Go on when you like.`;
  show("pause");
  $("continue").focus();
}

function preload(number) {
  if (loading.has(number)) return loading.get(number);
  const image = new Image();
  image.src = pictureUrl(number);
  const loaded = image.decode().catch(error => { loading.delete(number); throw error; });
  loading.set(number, loaded);
  loaded.catch(() => {}); // told when the picture is needed
  return loaded;
}

async function ask() {
  question = state.next[0];
  shownAt = null;
  $("choices").classList.remove("shown");
  $("progress").max = state.total;
  $("progress").value = state.answered;
  $("count").textContent = `${state.answered} of ${state.total}`;
  show("question");
  const mine = question;
  try {
    await Promise.all(mine.images.map(preload));
    for (const button of buttons) button.classList.remove("picked");
    for (const image of images) image.src = pictureUrl(mine.images[position(image)]);
    await Promise.all(images.map(image => image.decode()));
  } catch {
    return problem("A picture could not be loaded.", ask);
  }
  if (mine !== question) return;
  $("choices").classList.add("shown");
  // The second frame begins when the first, with all three pictures, has been painted.
  requestAnimationFrame(() => requestAnimationFrame(() => {
    if (mine !== question) return;
    shownAt = performance.now();
    for (const button of buttons) button.disabled = false;
    // A button that is switched off loses the focus, and whoever moves by Tab their place.
    // The button that was pressed before may be hidden now: who listens to a page hears the question instead of nothing.
    const lost = document.activeElement === document.body ? $("prompt") : null;
    (focused || lost)?.focus({ preventScroll: true });
  }));
}

function choose(button) {
  if (!button || shownAt === null || $("question").hidden) return;
  const rt = Math.round((performance.now() - shownAt) * 10) / 10;
  shownAt = null;
  focused = buttons.find(other => other === document.activeElement);
  for (const other of buttons) other.disabled = true;
  button.classList.add("picked");
  save({ token: question.token, choice: position(button.querySelector("img")), rt });
}

async function save(answer) {
  try {
    const reply = await send("/answers", answer);
    sincePause += 1;
    update(reply);
  } catch (error) {
    if (error.retry) return problem(error.message, () => save(answer));
    // Answers that were withdrawn end the session; otherwise the server knows better what comes next (another tab went on).
    if (error.status !== 401) return problem(error.message, begin);
    remember("");
    problem(error.message, null);
  }
}

function finish() {
  show("end");
  $("thanks").focus();
  $("code").textContent = state.code;
  $("code-line").hidden = !state.code;
  if (state.redirect) {
    const address = state.redirect.replaceAll("{participant}", encodeURIComponent(participant))
      .replaceAll("{code}", encodeURIComponent(state.code));
    $("link").href = address;
    $("link-line").hidden = false;
  }
}

$("consent").addEventListener("change", () => { $("begin").disabled = !$("consent").checked; });
$("begin").addEventListener("click", begin);
$("continue").addEventListener("click", ask);
$("anew").addEventListener("click", () => {
  remember("");
  $("anew").hidden = true;
  $("begin").textContent = "Begin";
  $("consent").checked = false;
  $("begin").disabled = true;
});
for (const button of buttons) button.addEventListener("click", () => choose(button));
document.addEventListener("keydown", event => {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey) return;
  // The digits on the buttons; of other keys the number is none, or is that of no button.
  choose(buttons[Number(event.key) - 1]);
});
if (session) {
  // Who agreed before need not do so again.
  $("begin").textContent = "Go on where you stopped";
  $("consent").checked = true;
  $("begin").disabled = false;
  $("anew").hidden = participant !== "";
}
