// All groups, and one with its members, its timeline and what can be done with it.

import { html, useState } from "./vendor/preact-htm.mjs";
import { all, begin, call } from "./api.js";
import { chosen, terms, unknown } from "./filter.js";
import { Ask, Cut, Filter, Problem, Status, Table, useAnswer } from "./parts.js";
import { Logs } from "./logs.js";
import { WhyNot } from "./plan.js";
import { Timeline } from "./timeline.js";
import { Standing, Update } from "./update.js";
import { because, bytes, clock, seconds } from "./units.js";

export const GROUP_KEYS = ["name", "status", "project", "host", "zone", "member", "reason"];
const SETTLED = ["Running", "Stopped", "Failed"];

function fields(group, picture) {
  const members = () => picture.membersOf(group.uuid);
  return {
    ...group,
    name: [group.name, group.uuid],
    get host() {
      return members().map((member) => picture.hosts.get(member.host)?.name);
    },
    get zone() {
      return members().map((member) => picture.zones.get(member.zone)?.name);
    },
    get member() {
      return members().map((member) => member.name);
    },
  };
}

export function Groups({ picture, loading, query, setQuery }) {
  const wanted = terms(query);
  const found = chosen([...picture.groups.values()], wanted, (group) => fields(group, picture));
  const groups = found.sort((a, b) => b.updated - a.updated);
  return html`<h1>Groups</h1>
    <${Filter} value=${query} set=${setQuery} keys=${GROUP_KEYS} problem=${unknown(wanted, GROUP_KEYS)} />
    <p><strong id="group-count">${groups.length}</strong> groups, <strong>${groups.filter((group) => group.status === "Running").length}</strong> running${loading && ", and more are being read"}. <a href="#/plan">Plan a deploy</a></p>
    <${Table} caption="Groups" items=${groups} keyOf=${(group) => group.uuid} head=${["Name", "Status", "Members running", "Project", "Changed", "Why"]}
      row=${(group) => html`<th scope="row"><a href=${`#/group/${group.uuid}`}>${group.name}</a></th><td><${Status} is=${group.status} /></td>
        <td><${Progress} group=${group} members=${picture.membersOf(group.uuid)} /></td><td>${group.project}</td><td class="when">${clock(group.updated)}</td><td>${group.reason}</td>`} />`;
}

function Progress({ group, members }) {
  const running = members.filter((member) => member.status === "Running").length;
  const words = `${running} of ${members.length || group.nodes} running`;
  return html`<progress max=${members.length || group.nodes} value=${running} aria-label=${words}></progress> ${running} / ${members.length || group.nodes}`;
}

const ACTIONS = [
  ["start", "Start", (status) => status === "Stopped", "Its members are started on their hosts."],
  ["restart", "Restart", (status) => ["Running", "Degraded"].includes(status), "Its model does not answer until all members run again."],
  ["stop", "Stop", (status) => ["Running", "Degraded"].includes(status), "Its model no longer answers. Disks and capacity are kept."],
];

// The devices of its host that a member has; until it is placed how many it wants.
function Claimed({ of }) {
  if (!of.devices.length) return of.gpus > 0 ? `${of.gpus} wanted` : "";
  return of.devices.map((one) => html`<div key=${one.key}><code>${one.key}</code> ${one.model}</div>`);
}

function Members({ caption, items, devices, picture }) {
  return html`<${Table} caption=${caption} items=${items} keyOf=${(member) => member.uuid} head=${["Rank", "Name", "Status", "Host", "CPU", "Memory", ...(devices ? ["Devices"] : []), "Why"]}
      row=${(member) => html`<th scope="row">${member.rank}</th><td>${member.name}</td><td><${Status} is=${member.status} /></td>
        <td>${host(picture, member.host)}${member.cells.length > 0 && ` NUMA cell ${member.cells.join(", ")}`}${member.target && html` → ${host(picture, member.target)}`}</td>
        <td>${member.cpu}</td><td>${bytes(member.memory)}</td>${devices && html`<td><${Claimed} of=${member} /></td>`}<td>${because(member)}</td>`} />`;
}

export function Group({ picture, loading, uuid, may }) {
  const group = picture.groups.get(uuid);
  const [ask, setAsk] = useState(null);
  const history = useAnswer((signal) => all(`/corral/v1/instance-groups/${uuid}/events`, "events", signal), [uuid, group?.updated]);
  const whole = useAnswer((signal) => call("GET", `/corral/v1/instance-groups/${uuid}`, undefined, signal), [uuid, group?.updated]);
  if (!group) return html`<h1>Group</h1>${loading ? html`<p>Loading…</p>` : html`<p>There is no group <code>${uuid}</code>, or it has been deleted.</p>`}`;
  const everybody = picture.membersOf(uuid);
  const members = everybody.filter((member) => !member.beside);
  const beside = everybody.filter((member) => member.beside);
  const answered = whole.value?.inventory?.instances?.[0]?.lastAnswer;
  const devices = everybody.some((member) => member.gpus > 0 || member.devices.length > 0);
  const updating = group.update && !["done", "taken_back"].includes(group.update.stage);
  const url = members.find((member) => member.rank === 0)?.url;
  const put = (verb, title, body) => setAsk({
    title: `${title} ${group.name}?`,
    verb: title,
    body: html`<p>${body}</p>`,
    run: () => (verb ? begin("POST", `/corral/v1/instance-groups/${uuid}:${verb}`, {}) : begin("DELETE", `/corral/v1/instance-groups/${uuid}`)),
  });
  return html`<h1>${group.name} <${Status} is=${group.status} /></h1>
    ${group.reason && html`<p class="reason">${group.reason}</p>`}
    ${group.cause && html`<p class="reason cause">The host says: ${group.cause}</p>`}
    ${group.priority ? html`<p>Priority ${group.priority}: of groups that wait, the higher goes first.</p>` : ""}
    ${group.waiting && html`<p class="waiting">Number ${group.waiting.position} of the groups that wait for hosts, until ${clock(group.waiting.until)}${group.waiting.starts > 0 && `; there is room by ${clock(group.waiting.starts)}`}${group.waiting.kept > 0 && `; room is kept for it on ${group.waiting.kept} ${group.waiting.kept === 1 ? "host" : "hosts"}`}.</p>`}
    ${group.eviction && html`<p class="waiting">It makes room for ${group.eviction.by ? html`<strong>${group.eviction.by}</strong>` : "a group of another project"} of priority ${group.eviction.priority}: it ${BECOMES[group.eviction.becomes]} ${group.eviction.begun ? "now" : `at ${clock(group.eviction.at)}`}.</p>`}
    ${group.why && html`<${WhyNot} problem=${group.why} picture=${picture} />`}
    <dl class="facts"><dt>Project</dt><dd>${group.project}</dd>${url && html`<dt>Answers at</dt><dd><code>${url}</code></dd>`}
      ${answered && html`<dt>Last right answer</dt><dd>${clock(Date.parse(answered))}</dd>`}
      <dt>Accepted</dt><dd>${clock(group.created)}</dd><dt>UUID</dt><dd><code>${group.uuid}</code></dd>
      ${!SETTLED.includes(group.status) && html`<dt>For</dt><dd>${seconds(Date.now() - group.updated)}</dd>`}</dl>
    ${may("operator") && html`<p class="actions">${ACTIONS.filter(([, , when]) => when(group.status) && !updating).map(([verb, title, , body]) =>
      html`<button key=${verb} onClick=${() => put(verb, title, body)}>${title}…</button>`)}
      <button class="danger" onClick=${() => put("", "Delete", "Its machines and their disks are destroyed.")}>Delete…</button></p>`}
    <${Standing} update=${group.update} put=${may("operator") && put} picture=${picture} />
    ${may("operator") && group.status === "Running" && !updating && html`<${Update} key=${uuid} group=${group} picture=${picture} />`}
    <${Members} caption="Members" items=${members} devices=${devices} picture=${picture} />
    ${beside.length > 0 && html`<${Members} caption="Members of the gang beside" items=${beside} devices=${devices} picture=${picture} />`}
    ${whole.value?.inventory?.room && html`<${Room} room=${whole.value.inventory.room} picture=${picture} />`}
    ${members.length > 0 && html`<${Logs} uuid=${uuid} members=${members} />`}
    <h2>Timeline</h2>
    <${Problem} is=${history.problem} />
    <${Cut} of=${history.value} />
    ${history.value && html`<${Timeline} events=${history.value} members=${members} />`}
    <${Ask} ask=${ask} close=${() => setAsk(null)} />`;
}

function host(picture, uuid) {
  const found = picture.hosts.get(uuid);
  if (found) return html`<a href=${`#/host/${uuid}`}>${found.name}</a>`;
  return uuid ? "placed" : "—";
}

const BECOMES = { waiting: "waits for hosts again", stopped: "is stopped, without its hosts", deleted: "is deleted" };

// Who leaves which host so that this group fits. Members of other projects are not named to those who may not see them.
function Room({ room, picture }) {
  const moves = room.moves || [];
  const gone = moves.filter((move) => move.gone).length;
  const group = (move) => (move.groupUuid ? html`<a href=${`#/group/${move.groupUuid}`}>${picture.groups.get(move.groupUuid)?.name || move.groupUuid.slice(0, 8)}</a>` : "another project's");
  const table = html`<${Table} caption="Moves that make room" items=${moves} keyOf=${(move) => move.instanceUuid + move.sourceHostName + move.targetHostName} head=${["Member", "Group", "From", "To", "Memory", "How", "Stands"]}
      row=${(move) => html`<th scope="row">${move.instanceName || "a member"}</th><td>${group(move)}</td><td>${move.sourceHostName}</td><td>${move.targetHostName}</td>
        <td>${bytes(Number(move.memorySize))}</td><td>${move.live ? "as it runs" : "stopped and started again"}</td><td>${move.gone ? "gone" : "to go"}</td>`} />`;
  if (room.evictions?.length) return html`<h2>Room is being made</h2>
    <p>${bytes(Number(room.movedBytes || 0))} of memory in all, of groups that end for it.</p>
    <${Table} caption="Groups that end to make room" items=${room.evictions} keyOf=${(one) => one.groupUuid + one.groupName + one.priority + one.memorySize} head=${["Group", "Priority", "Members", "Memory", "When", "Then"]}
      row=${(one) => html`<th scope="row">${one.groupUuid ? html`<a href=${`#/group/${one.groupUuid}`}>${one.groupName}</a>` : "another project's"}</th><td>${one.priority || 0}</td>
        <td>${one.goneCount || 0} of ${one.instanceCount} gone</td><td>${bytes(Number(one.memorySize))}</td><td>${clock(Date.parse(one.time))}</td><td>it ${BECOMES[one.becomes.replace("EVICTED_TO_", "").toLowerCase()]}</td>`} />
    ${moves.length > 0 && table}`;
  return html`<h2>Room is being made</h2>
    <p><progress max=${moves.length} value=${gone} aria-label=${`${gone} of ${moves.length} gone`}></progress> ${gone} of ${moves.length} have left their hosts, ${bytes(Number(room.movedBytes || 0))} of memory in all.</p>
    ${table}`;
}
