// What the page knows: kept current by one stream, drawn at most four times a second, and not at all while hidden.

import { events, Refused } from "./api.js";

const DRAWS = 4; // in a second, at most
const RETRY_MS = [500, 1000, 2000, 5000, 10000];

export class Picture {
  constructor() {
    this.zones = new Map();
    this.hosts = new Map();
    this.groups = new Map();
    this.members = new Map();
    this.used = new Map(); // what guests take of a host now, where that is measured
    this.byHost = new Map();
    this.byGroup = new Map();
  }

  apply(changes) {
    if (changes.zones) this.zones = new Map(changes.zones.map((zone) => [zone.uuid, zone]));
    for (const uuid of changes.removed_hosts || []) this.hosts.delete(uuid);
    for (const [uuid, used] of Object.entries(changes.used || {})) this.used.set(uuid, used);
    for (const host of changes.hosts || []) this.hosts.set(host.uuid, host);
    for (const member of changes.members || []) this._member(member);
    for (const group of changes.groups || []) this._group(group);
  }

  membersOf(group) {
    return [...(this.byGroup.get(group) || [])].map((uuid) => this.members.get(uuid)).sort((a, b) => a.rank - b.rank);
  }

  usedOf(host) {
    return this.used.get(host) || {};
  }

  membersOn(host) {
    return [...(this.byHost.get(host) || [])].map((uuid) => this.members.get(uuid));
  }

  _member(member) {
    this._forget(member.uuid);
    if (member.status === "Removed") return;
    this.members.set(member.uuid, member);
    index(this.byGroup, member.group).add(member.uuid);
    if (member.host) index(this.byHost, member.host).add(member.uuid);
  }

  _forget(uuid) {
    const before = this.members.get(uuid);
    if (!before) return;
    this.members.delete(uuid);
    this.byGroup.get(before.group)?.delete(uuid);
    this.byHost.get(before.host)?.delete(uuid);
  }

  _group(group) {
    if (!group.ended) {
      this.groups.set(group.uuid, group);
      return;
    }
    this.groups.delete(group.uuid);
    for (const uuid of [...(this.byGroup.get(group.uuid) || [])]) this._forget(uuid);
    this.byGroup.delete(group.uuid);
  }
}

function index(map, key) {
  let found = map.get(key);
  if (!found) map.set(key, (found = new Set()));
  return found;
}

// How long the next draw waits, in ms. `drawn`: when the newest draws were, the oldest first. The first two of a second are made at once,
// so that what follows a rest is seen at once, also where something else was told just before; the others share what is left of it.
export function wait(drawn, now) {
  const lately = drawn.filter((at) => now - at < 1000);
  if (lately.length < 2) return 0;
  const last = lately[lately.length - 1];
  return Math.max(0, last + (lately[0] + 1000 - last) / (DRAWS + 1 - lately.length) - now);
}

export class Store {
  constructor(draw) {
    this.draw = draw;
    this.picture = new Picture();
    this.about = null;
    this.link = "connecting"; // live | lost | refused
    this.problem = null;
    this._drawn = [];
    this._timer = 0;
    this._failures = 0;
    this._stream = null;
    document.addEventListener("visibilitychange", () => (document.hidden ? this.close() : this.open()));
  }

  get role() {
    return this.about?.caller.role || "";
  }

  may(role) {
    const ranks = ["viewer", "operator", "admin"];
    return ranks.indexOf(this.role) >= ranks.indexOf(role);
  }

  close() {
    clearTimeout(this._retry);
    this._stream?.abort();
    this._stream = null;
  }

  open() {
    this.close();
    const stream = new AbortController();
    this._stream = stream;
    this._read(stream).catch((problem) => this._lost(stream, problem));
  }

  changed() {
    if (document.hidden || this._timer) return;
    this._timer = setTimeout(() => {
      this._timer = 0;
      this._drawn = [...this._drawn, performance.now()].slice(-DRAWS);
      this.draw();
    }, wait(this._drawn, performance.now()));
  }

  // Of the first connection what comes is drawn as it comes: the fleet first, then its groups. Later on what is drawn stays until
  // all that stands now has been told, so that a new connection does not empty the page.
  async _read(stream) {
    let next = this.link === "connecting" ? null : new Picture();
    if (!next) this.picture = new Picture();
    for await (const { name, data } of events("GET", "/web/events", undefined, stream.signal)) {
      if (name === "hello") this.about = data;
      else if (name === "changes") (next || this.picture).apply(data);
      else if (name === "ready") {
        this.picture = next || this.picture;
        next = null;
        this._failures = 0;
        this.link = "live";
        this.problem = null;
      }
      if (!next) this.changed();
    }
    throw new Error("the service has ended the stream");
  }

  _lost(stream, problem) {
    if (this._stream !== stream) return;
    this._stream = null;
    this.problem = problem;
    const refused = problem instanceof Refused && (problem.status === 401 || problem.status === 403);
    this.link = refused ? "refused" : "lost";
    if (!refused) {
      this._retry = setTimeout(() => this.open(), RETRY_MS[Math.min(this._failures++, RETRY_MS.length - 1)]);
    }
    this.changed();
  }
}
