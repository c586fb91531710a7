// The one language of filters: of every view, and of the page's address.
//
// Words with spaces between them, all of which must hold. `key:text` looks for text in that field, a word alone in the
// name; case does not count. `-` in front of a word means that it must not hold. "Double quotes" keep spaces together.

const TERM = /(-?)(?:([a-z]+):)?(?:"([^"]*)"|(\S+))/gi;

export function terms(text) {
  return [...text.matchAll(TERM)].map(([, not, key, quoted, plain]) => ({
    not: not === "-",
    key: (key || "name").toLowerCase(),
    text: (quoted ?? plain).toLowerCase(),
  }));
}

// `fields`: the fields of one thing by name, each a text or a list of texts.
export function matches(wanted, fields) {
  return wanted.every(({ not, key, text }) => {
    const value = fields[key];
    const found = [value ?? []].flat().some((one) => String(one).toLowerCase().includes(text));
    return found !== not;
  });
}

// Those that hold. What nothing is asked of is not looked at.
export function chosen(things, wanted, fields) {
  return wanted.length ? things.filter((one) => matches(wanted, fields(one))) : things;
}

export function unknown(wanted, known) {
  return wanted.filter(({ key }) => !known.includes(key)).map(({ key }) => key);
}
