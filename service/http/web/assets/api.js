// Calls of the service: JSON, and streams of server-sent events. A token is kept for this tab alone and sent as a header,
// so that no other site's page can make a browser send it.

const KEY = "corral-token";

export const token = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

export class Refused extends Error {
  constructor(status, error) {
    super(error.message || `HTTP ${status}`);
    this.status = status;
    this.details = error.details || [];
    this.reason = this.details.find((one) => one.reason)?.reason || error.status || "";
    this.failure = this.details.find((one) => String(one["@type"]).endsWith("corral.v1.PlacementFailure"));
    this.violations = this.details.flatMap((one) => one.fieldViolations || []);
  }
}

function headers(more = {}) {
  const shown = token.get();
  return shown ? { ...more, Authorization: `Bearer ${shown}` } : more;
}

async function refusal(answer) {
  let body = {};
  try {
    body = await answer.json();
  } catch {
    // A proxy in between answers in its own words.
  }
  return new Refused(answer.status, body.error || {});
}

function asked(method, path, body, signal) {
  const init = { method, signal, headers: headers(body === undefined ? {} : { "Content-Type": "application/json" }) };
  if (body !== undefined) init.body = JSON.stringify(body);
  return fetch(path, init);
}

export async function call(method, path, body, signal) {
  const answer = await asked(method, path, body, signal);
  if (!answer.ok) throw await refusal(answer);
  return answer.json();
}

// The pages of a listing, one after the other until there are `most` items. `name`: the field that holds the items. Where
// there are more, the array's `more` says so.
export async function all(path, name, signal, most = 5000) {
  const found = [];
  let next = "";
  do {
    const query = new URLSearchParams({ pageSize: "1000", ...(next ? { pageToken: next } : {}) });
    const page = await call("GET", `${path}${path.includes("?") ? "&" : "?"}${query}`, undefined, signal);
    found.push(...(page[name] || []));
    next = page.nextPageToken || "";
  } while (next && found.length < most);
  found.more = next !== "";
  return found;
}

// Yields {name, data} for each event; throws Refused for the error that a stream ends with.
export async function* events(method, path, body, signal) {
  const answer = await asked(method, path, body, signal);
  if (!answer.ok) throw await refusal(answer);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      text += value;
      const parts = text.split("\n\n");
      text = parts.pop();
      for (const part of parts) {
        const event = parsed(part);
        if (event?.name === "error") throw new Refused(event.data.error.code, event.data.error);
        if (event?.name === "end") return;
        if (event) yield event;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function parsed(text) {
  let name = "message";
  let data = "";
  for (const line of text.split("\n")) {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) data += line.slice(6);
  }
  return data ? { name, data: JSON.parse(data) } : null;
}

// Begins an operation, and leaves once it is stored: from there on it is brought to its end without anybody listening.
export async function begin(method, path, body) {
  const leave = new AbortController();
  try {
    for await (const { data } of events(method, path, body, leave.signal)) return data;
  } finally {
    leave.abort();
  }
  return null;
}
