// The page of the sandbox. Everything that comes from outside is set as text, never as markup.

const MOST_SHOWN = 200; // messages, conversations and requests that are kept in the page
const byId = (id) => document.getElementById(id);
const people = new Map(); // "account person" to {id, account, messages, latest}
const shownState = { accounts: [], faults: [] };
let open = null; // the key of the conversation that is open
let moved = 0; // milliseconds by which the sandbox's clock is ahead of this one

function element(name, properties = {}, ...children) {
  const { data, ...others } = properties;
  const made = Object.assign(document.createElement(name), others);
  for (const [key, value] of Object.entries(data ?? {})) made.dataset[key] = value;
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

async function ask(method, path, body) {
  const headers = method === "GET" ? {} : { "X-Sandbox": "page", "Content-Type": "application/json" };
  const response = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

async function attempt(work) {
  byId("error").textContent = "";
  try {
    await work();
  } catch (error) {
    byId("error").textContent = error.message;
  }
}

const keyOf = (message) => `${message.account} ${message.person}`;
const clockTime = (at) => new Date(at).toISOString().slice(11, 19);
const span = (ms) => ms < 90e3 ? `${Math.ceil(ms / 1e3)} s` : ms < 90 * 60e3 ? `${Math.ceil(ms / 60e3)} min` : `${Math.ceil(ms / 3600e3)} h`;
const nameOf = (id) => `${accountOf(id)?.name ?? ""}${shownState.accounts.length > 1 ? ` ${id}` : ""}`;
const accountOf = (id) => shownState.accounts.find((account) => account.id === id);

// ---- conversations ----

let listIsDue = false;

function noteMessage(message) {
  const key = keyOf(message);
  const before = people.get(key);
  if (before?.latest && BigInt(message.id) <= BigInt(before.latest.id)) return; // it was in the list already
  people.set(key, { id: message.person, account: message.account, messages: (before?.messages ?? 0) + 1, latest: message });
  showPeopleSoon();
  if (key === open) addMessage(message);
}

function showPeopleSoon() {
  if (listIsDue) return;
  listIsDue = true;
  setTimeout(() => { listIsDue = false; showPeople(); }, 100);
}

function showPeople() {
  const list = byId("conversations");
  const latestFirst = [...people].sort(([, a], [, b]) => (b.latest?.at ?? Infinity) - (a.latest?.at ?? Infinity));
  const buttons = new Map([...list.querySelectorAll("button")].map((button) => [button.dataset.key, button]));
  const wanted = latestFirst.slice(0, MOST_SHOWN).map(([key, person]) => {
    const button = buttons.get(key) ?? element("button", { type: "button", data: { key } }, element("span"), element("span", { className: "quiet" }));
    const account = shownState.accounts.length > 1 ? ` · ${nameOf(person.account)}` : "";
    button.firstChild.textContent = `Person ${person.id}${account}`;
    button.lastChild.textContent = person.latest ? `${person.messages} · ${person.latest.text || "(no text)"}` : "nothing yet";
    button.setAttribute("aria-current", String(key === open));
    return button.parentElement ?? element("li", {}, button);
  });
  wanted.forEach((item, place) => { if (list.children[place] !== item) list.insertBefore(item, list.children[place] ?? null); });
  while (list.children.length > wanted.length) list.lastChild.remove();
}

async function openConversation(key) {
  open = key;
  const [account, person] = key.split(" ");
  if (!people.has(key)) people.set(key, { id: person, account, messages: 0, latest: null });
  byId("chat-title").textContent = `Person ${person}`;
  byId("chat-help").textContent = "This is what the person sees.";
  byId("write").hidden = false;
  byId("error").textContent = byId("typing").textContent = "";
  byId("messages").replaceChildren();
  showPeople();
  showView("chat");
  await showMessages();
}

async function showMessages(before) {
  const [account, person] = open.split(" ");
  const key = open;
  const query = new URLSearchParams({ account, person, most: 50, ...(before && { before }) });
  const { messages } = await ask("GET", `/_sandbox/messages?${query}`);
  if (open !== key) return;
  const list = byId("messages");
  const known = new Set([...list.children].map((item) => item.dataset.id));
  list.prepend(...messages.filter((message) => !known.has(message.id)).map(bubble));
  byId("older").hidden = messages.length < 50;
  showChoices();
  if (!before) list.scrollTop = list.scrollHeight;
}

function addMessage(message) {
  const list = byId("messages");
  if (list.querySelector(`[data-id="${CSS.escape(message.id)}"]`)) return;
  const atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 80;
  list.append(bubble(message));
  while (list.children.length > MOST_SHOWN) { list.firstChild.remove(); byId("older").hidden = false; }
  if (message.from === "account") byId("typing").textContent = "";
  showChoices();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

function bubble(message) {
  const isMine = message.from === "person";
  const name = message.profile?.name ?? nameOf(message.account);
  const face = message.profile ? element("img", { className: "face", src: message.profile.picture, alt: "" }) : element("span", { className: "face" });
  const media = message.media && (message.media.content_type.startsWith("image/")
    ? element("img", { src: message.media.url, alt: "Picture" })
    : element("a", { href: message.media.url, target: "_blank", rel: "noopener noreferrer" }, message.media.content_type));
  const place = message.location && element("small", {}, "A location");
  const buttons = message.buttons.map((button) =>
    element("a", { href: button.url, target: "_blank", rel: "noopener noreferrer" }, button.label));
  const counted = isMine || message.counted === null ? "" : message.counted ? " · counts" : " · free reply";
  const item = element("li", { className: isMine ? "mine" : "", data: { id: message.id } },
    isMine ? null : face,
    isMine ? null : element("b", {}, name),
    element("p", {}, message.text || "(no text)"),
    media || place || buttons.length ? element("div", { className: "more" }, media, place, ...buttons) : null,
    element("small", {}, `${clockTime(message.at)}${message.tapped ? " · tapped" : ""}${counted}`));
  item.message = message;
  return item;
}

function showChoices() {
  const last = byId("messages").lastElementChild?.message;
  const [account] = (open ?? " ").split(" ");
  const offered = last ? (last.from === "account" ? last : null) : accountOf(account)?.welcome;
  if (!last && offered?.text) {
    byId("chat-help").textContent = `Welcome message of ${offered.profile?.name ?? nameOf(account)}: ${offered.text}`;
  }
  byId("choices").replaceChildren(...(offered?.choices ?? []).map((choice) =>
    element("button", { type: "button", title: choice.description ?? "", data: { label: choice.label } }, choice.label)));
}

function toPerson(action, body = {}) {
  const [account, person] = open.split(" ");
  return ask("POST", `/_sandbox/people/${person}/${action}`, { account, ...body });
}

// ---- inside ----

function requestItem(request) {
  const isFine = !request.reason && !request.fault;
  const verdict = request.fault ? `${request.status || "not carried out"}, fault: ${request.fault}` : request.status;
  return element("li", { className: isFine ? "fine" : "", data: { number: request.number } },
    element("span", { className: isFine ? "good" : "bad" }, `${verdict} `),
    element("code", {}, `${request.method} ${request.path}`),
    element("small", {}, ` ${clockTime(request.at)}`),
    request.reason ? element("div", { className: "bad" }, request.reason) : null);
}

function noteRequest(request) {
  const list = byId("requests");
  if (Number(list.firstElementChild?.dataset.number ?? 0) >= request.number) return;
  list.prepend(requestItem(request));
  while (list.children.length > MOST_SHOWN) list.lastChild.remove();
  showStateSoon();
}

let stateIsDue = false;

function showStateSoon() {
  if (stateIsDue) return;
  stateIsDue = true;
  setTimeout(() => { stateIsDue = false; showState().catch(() => {}); }, 300);
}

async function showState() {
  const state = await ask("GET", "/_sandbox/state");
  Object.assign(shownState, state);
  moved = state.time.now - Date.now();
  showNow();
  const { messages, requests, breaches } = state.counts;
  const free = state.accounts.reduce((sum, account) => sum + account.free_replies, 0);
  byId("counts").textContent = `${messages} messages, ${free} of them free replies; ${requests} requests, ${breaches} over a quota`;
  const fullestFirst = state.quotas.toSorted((a, b) => b.used / b.limit - a.used / a.limit);
  byId("quotas").replaceChildren(...fullestFirst.map((quota) => {
    const owner = quota.scope === "app" ? "app" : `account ${nameOf(quota.owner)}`;
    const label = `${quota.endpoint}, ${owner}: ${quota.used} of ${quota.limit}`;
    const meter = element("meter", { max: quota.limit, value: quota.used, high: quota.limit * 0.8, optimum: 0 });
    meter.setAttribute("aria-label", label);
    return element("li", { data: { endpoint: quota.endpoint, scope: quota.scope } }, label, element("small", {}, `, for ${span(quota.ends - state.time.now)}`), meter);
  }));
  byId("webhooks").replaceChildren(...state.webhooks.map((webhook) =>
    element("li", {}, element("code", {}, webhook.url), element("small", { className: webhook.last === "delivered" || webhook.last === "checked" ? "good" : "bad" }, ` ${webhook.last}`))),
    ...(state.webhooks.length ? [] : [element("li", { className: "quiet" }, "Nobody listens.")]));
  const chosen = byId("account").value;
  byId("account").replaceChildren(...state.accounts.map(({ id }) => element("option", { value: id, selected: id === chosen }, nameOf(id))));
  byId("review").hidden = !state.shows_held;
  await showHeld();
  byId("account-choice").hidden = state.accounts.length < 2;
  const on = new Set(state.faults.flatMap((fault) => fault.kinds));
  byId("faults-on").textContent = on.size ? `On: ${[...on].join(", ")}` : "None is on.";
  if (byId("faults").children.length === 1) {
    byId("faults").append(...state.fault_kinds.map((kind) =>
      element("label", {}, element("input", { type: "checkbox", value: kind }), ` ${kind}`)));
  }
  for (const box of byId("faults").querySelectorAll("input")) box.checked = on.has(box.value);
  if (!byId("messages").children.length) showChoices();
}

// ---- messages that wait for approval ----

async function showHeld() {
  if (!shownState.shows_held || document.hidden) return;
  const { held } = await ask("GET", "/_sandbox/held");
  const list = byId("held");
  const items = new Map([...list.querySelectorAll("li[data-key]")].map((item) => [item.dataset.key, item])); // kept, with what is typed in them
  list.replaceChildren(...held.slice(0, MOST_SHOWN).map((message) => items.get(message.key) ?? heldItem(message)),
    ...(held.length ? [] : [element("li", { className: "quiet" }, "Nothing waits.")]));
}

function heldItem(message) {
  const name = message.name ?? (message.profile ? `Profile ${message.profile}` : nameOf(shownState.accounts[0]?.id));
  const offers = [...message.choices, ...message.buttons.map((button) => `${button.label}: ${button.url}`), ...(message.has_attachment ? ["an attachment"] : [])];
  const until = message.not_after === null ? "" : `, until ${clockTime(message.not_after)}`;
  const why = element("input", { placeholder: "Why not?", autocomplete: "off", maxLength: 1000 });
  why.setAttribute("aria-label", "Reason for rejecting");
  return element("li", { data: { key: message.key } },
    element("b", {}, name), ` to person ${message.person}`,
    element("p", {}, message.text || "(no text)"),
    offers.length ? element("p", { className: "quiet" }, `With ${offers.join(" · ")}`) : null,
    element("small", {}, `${clockTime(message.put_at)}${until}`),
    element("div", { className: "row" },
      element("button", { type: "button", data: { decision: "approve" } }, "Approve"),
      why,
      element("button", { type: "button", data: { decision: "reject" } }, "Reject")));
}

byId("held").addEventListener("click", (event) => {
  const { decision } = event.target.dataset;
  if (decision === undefined) return;
  const item = event.target.closest("li");
  const why = item.querySelector("input").value || "rejected on the page";
  attempt(async () => {
    try {
      await ask("POST", `/_sandbox/held/${decision}`, { key: item.dataset.key, ...(decision === "reject" && { why }) });
    } finally {
      await showHeld();
    }
  });
});
setInterval(() => showHeld().catch(() => {}), 1000);

function showNow() {
  byId("now").textContent = new Date(Date.now() + moved).toISOString().slice(0, 19).replace("T", " ");
}

function showView(view) {
  document.querySelector("main").dataset.view = view;
  for (const button of document.querySelectorAll("nav button")) button.setAttribute("aria-pressed", String(button.dataset.view === view));
  byId("messages").scrollTop = byId("messages").scrollHeight;
}

async function showAll() {
  people.clear(); // what happens from now on comes over the stream, and is newer than what is asked for
  byId("requests").replaceChildren();
  await showState();
  const [{ people: found }, { requests }] = await Promise.all([ask("GET", "/_sandbox/people"), ask("GET", "/_sandbox/requests?most=100")]);
  for (const person of found) {
    const key = `${person.account} ${person.id}`;
    const newer = people.get(key);
    const isNewer = newer?.latest && BigInt(newer.latest.id) > BigInt(person.latest.id);
    people.set(key, isNewer ? { ...newer, messages: newer.messages + person.messages } : person);
  }
  if (open !== null && !people.has(open)) people.set(open, { id: open.split(" ")[1], account: open.split(" ")[0], messages: 0, latest: null });
  const known = new Set([...byId("requests").children].map((item) => Number(item.dataset.number)));
  byId("requests").append(...requests.reverse().filter((request) => !known.has(request.number)).map(requestItem));
  showPeople();
  if (open !== null) {
    byId("messages").replaceChildren();
    await showMessages();
  }
}

// ---- what a person does with the page ----

byId("conversations").addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button) attempt(() => openConversation(button.dataset.key));
});
byId("new-person").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = byId("person-id").value;
  byId("person-id").value = "";
  attempt(() => openConversation(`${byId("account").value} ${id}`));
});
byId("write").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value;
  byId("text").value = "";
  attempt(() => toPerson("write", { text }).catch((error) => {
    byId("text").value ||= text; // it was not sent
    throw error;
  }));
});
byId("choices").addEventListener("click", (event) => {
  const { label } = event.target.dataset;
  if (label !== undefined) attempt(() => toPerson("tap", { label }));
});
byId("type").addEventListener("click", () => attempt(() => toPerson("type")));
byId("read").addEventListener("click", () => attempt(() => toPerson("read")));
byId("older").addEventListener("click", () => attempt(() => showMessages(byId("messages").firstElementChild?.dataset.id)));
byId("clear").addEventListener("click", () => attempt(() => ask("POST", "/_sandbox/clear", {})));
byId("subscribe").addEventListener("submit", (event) => {
  event.preventDefault();
  attempt(async () => {
    await ask("POST", "/_sandbox/webhooks", { url: byId("url").value });
    byId("url").value = "";
  });
});
byId("faults").addEventListener("change", (event) => {
  const { value: kind, checked } = event.target;
  const probability = Number(byId("probability").value);
  attempt(() => checked ? ask("POST", "/_sandbox/faults", { kinds: kind, probability }) : ask("DELETE", `/_sandbox/faults?kind=${encodeURIComponent(kind)}`));
});
byId("only-refused").addEventListener("change", (event) => byId("requests").classList.toggle("only-refused", event.target.checked));
for (const button of document.querySelectorAll("[data-advance]")) {
  button.addEventListener("click", () => attempt(() => ask("POST", "/_sandbox/time", { advance: button.dataset.advance })));
}
for (const button of document.querySelectorAll("nav button")) button.addEventListener("click", () => showView(button.dataset.view));
setInterval(showNow, 1000);

// ---- what happens meanwhile ----

let stream = null;

function follow() {
  stream = new EventSource("/_sandbox/events");
  const on = (kind, handle) => stream.addEventListener(kind, (event) => handle(JSON.parse(event.data)));
  on("message", noteMessage);
  on("request", noteRequest);
  on("typing", (sign) => {
    if (keyOf(sign) === open && sign.from === "account") byId("typing").textContent = "is typing …";
  });
  for (const kind of ["time", "faults", "webhook", "problem"]) on(kind, showStateSoon);
  for (const kind of ["cleared", "reset"]) on(kind, () => attempt(showAll));
  stream.addEventListener("open", () => { byId("connection").textContent = ""; attempt(showAll); });
  stream.addEventListener("error", () => { byId("connection").textContent = "The sandbox does not answer. Trying again …"; });
}

// A browser opens six connections to a host, and a tab that nobody sees needs none.
document.addEventListener("visibilitychange", () => {
  stream.close();
  if (!document.hidden) follow();
});
follow();
