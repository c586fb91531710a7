// The page: its address says what is shown, one store keeps it current.

import { html, render, useEffect, useState } from "./vendor/preact-htm.mjs";
import { token } from "./api.js";
import { Fleet, Host } from "./fleet.js";
import { Group, Groups } from "./groups.js";
import { Audit, Decisions, Images, Quarantine, Usage } from "./lists.js";
import { Plan } from "./plan.js";
import { Rolls } from "./rolls.js";
import { Store } from "./store.js";

const VIEWS = {
  fleet: { title: "Fleet", role: "admin", view: Fleet },
  groups: { title: "Groups", role: "viewer", view: Groups },
  plan: { title: "Plan", role: "viewer", view: Plan },
  images: { title: "Images", role: "viewer", view: Images },
  rolls: { title: "Rolls", role: "admin", view: Rolls },
  quarantine: { title: "Quarantine", role: "admin", view: Quarantine },
  decisions: { title: "Decisions", role: "admin", view: Decisions },
  usage: { title: "Usage", role: "viewer", view: Usage },
  audit: { title: "Audit", role: "operator", view: Audit },
  host: { role: "admin", view: Host },
  group: { role: "viewer", view: Group },
};

function address() {
  const [path, query = ""] = location.hash.slice(1).split("?");
  const [, name = "", uuid = ""] = path.split("/");
  return { name, uuid, query: new URLSearchParams(query).get("q") || "" };
}

function setQuery(query) {
  const { name, uuid } = address();
  const path = `#/${name}${uuid && `/${uuid}`}`;
  history.replaceState(null, "", query ? `${path}?${new URLSearchParams({ q: query })}` : path);
  draw();
}

const root = document.getElementById("app");
const store = new Store(draw);

function draw() {
  render(html`<${Page} store=${store} at=${address()} />`, root);
}

function Page({ store, at }) {
  const may = (role) => store.may(role);
  const name = at.name in VIEWS && (store.role === "" || may(VIEWS[at.name].role)) ? at.name : may("admin") ? "fleet" : "groups";
  const { view, title } = VIEWS[name];
  const loading = store.link === "connecting";
  useEffect(() => {
    document.title = `Corral: ${title || name}`;
  }, [name]);
  return html`<a class="skip" href="#main" onClick=${skip}>Skip to the content</a>
    <header><a class="brand" href="#/">Corral</a>
      <nav aria-label="Views"><ul>${Object.entries(VIEWS).filter(([, one]) => one.title && may(one.role)).map(([key, one]) =>
        html`<li key=${key}><a href=${`#/${key}`} aria-current=${key === name ? "page" : null}>${one.title}</a></li>`)}</ul></nav>
      <${Link} store=${store} /></header>
    <main id="main" tabindex="-1">${store.link === "refused" ? html`<${SignIn} store=${store} />` : store.about && store.picture.hosts.size + store.picture.groups.size + store.picture.zones.size === 0 && loading ? html`<p>Loading…</p>`
      : html`<${view} picture=${store.picture} loading=${loading} uuid=${at.uuid} query=${at.query} setQuery=${setQuery} may=${may} key=${name + at.uuid} />`}</main>
    <footer>${store.about && html`<span>Corral ${store.about.version}, installation <code>${store.about.name}</code>, gRPC at <code>${store.about.grpc}</code></span>`}
      <span><a href="/openapi.json">OpenAPI</a> <a href="/metrics">metrics</a> <a href="/healthz">health</a></span></footer>`;
}

function skip(event) {
  event.preventDefault();
  document.getElementById("main").focus();
}

function Link({ store }) {
  const words = { live: "live", connecting: store.about ? "loading…" : "connecting…", lost: "connection lost, trying again", refused: "not signed in" }[store.link];
  const who = store.about?.caller;
  return html`<p class=${`link ${store.link}`} role="status">${who && store.link !== "refused" && html`<span>${who.principal} (${who.role})</span> `}<span id="link">${words}</span>
    ${token.get() && html` <button onClick=${() => { token.set(""); location.reload(); }}>Sign out</button>`}</p>`;
}

function SignIn({ store }) {
  const [value, setValue] = useState("");
  const enter = (event) => {
    event.preventDefault();
    token.set(value.trim());
    store.open();
  };
  return html`<h1>Sign in</h1><form class="plan" onSubmit=${enter}>
    <label for="token">Token</label><input id="token" type="password" autocomplete="off" required value=${value} onInput=${(event) => setValue(event.target.value)} />
    <p class="actions"><button class="primary">Sign in</button></p></form>
    <p>It is kept in this tab until the tab is closed.</p>
    ${token.get() && html`<p class="problem" role="alert">${store.problem?.message}</p>`}`;
}

window.addEventListener("hashchange", draw);
window.addEventListener("keydown", (event) => {
  if (event.key !== "/" || /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement?.tagName)) return;
  const filter = document.getElementById("filter");
  if (!filter) return;
  event.preventDefault();
  filter.focus();
});
draw();
store.open();
