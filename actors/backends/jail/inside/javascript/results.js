// What a program displays, as messages to its host: JSON lines on a descriptor.
"use strict";
const fs = require("node:fs");
const util = require("node:util");

/** The key under which an error of the service has its whole traceback. */
const TRACEBACK = Symbol("traceback");
const MAX_TEXT = 2 ** 20; // characters
const MAX_FORMAT = 2 ** 23;
const MAX_JSON_DEPTH = 100;

/** A channel to the host, on a descriptor. */
class Results {
  #fd;

  constructor(fd) {
    this.#fd = fd;
  }

  send(message) {
    let rest = Buffer.from(JSON.stringify(message) + "\n");
    while (rest.length > 0) rest = rest.subarray(fs.writeSync(this.#fd, rest));
  }

  /** Send a value in all its formats; the `main` result is a program's last value. */
  show(value, main) {
    const formats = { "text/plain": inspected(value) };
    const plain = plainData(value);
    if (plain !== undefined) formats["application/json"] = plain;
    this.send({ kind: "result", main, formats });
  }

  /** Show a program's last value, unless there is none; one that is promised, once it is there. */
  showLast(value) {
    if (util.types.isPromise(value)) value.then((settled) => this.showLast(settled));
    else if (value !== undefined) this.show(value, true);
  }

  /** Give programs `display`, which shows a value on the way, or formats of one by their MIME types. */
  offerDisplay() {
    const display = (value) => {
      if (isFormats(value)) this.send({ kind: "result", main: false, formats: fitting(value) });
      else this.show(value, false);
    };
    define("display", display);
  }
}

/** Define a global that programs may define anew, and that does not show among theirs; if they have, it is theirs. */
function define(name, value) {
  Reflect.defineProperty(globalThis, name, { value, configurable: true, writable: true, enumerable: false });
}

/** What is known of an error besides where it came from, unless it tells that itself. */
function described(error) {
  if (!util.types.isNativeError(error)) return { name: "Thrown", value: inspected(error) };
  try {
    const own = error[TRACEBACK] === undefined ? {} : { traceback: error[TRACEBACK] };
    return { name: String(error.name), value: String(error.message), ...own };
  } catch {
    return { name: "Error", value: "" }; // its own properties throw
  }
}

function inspected(value) {
  try {
    return cut(util.inspect(value));
  } catch {
    return cut(util.inspect(value, { customInspect: false, getters: false })); // how it wants to be shown throws
  }
}

function cut(text) {
  return text.length > MAX_TEXT ? `${text.slice(0, MAX_TEXT)}… ${text.length - MAX_TEXT} more characters` : text;
}

/** Formats of a value without those that do not fit into a result, which says so. */
function fitting(formats) {
  const fit = {};
  for (const [kind, data] of Object.entries(formats)) {
    if (kind === "text/plain" && typeof data === "string") fit[kind] = cut(data);
    else if (fits(data)) fit[kind] = data;
    else fit["text/plain"] ??= `(${kind} is left out: it is too large)`;
  }
  return fit;
}

function fits(data) {
  const json = JSON.stringify(data) ?? "null";
  return json.length <= MAX_FORMAT && depth(json) <= MAX_JSON_DEPTH;
}

function isFormats(value) {
  return value !== null && typeof value === "object" && Object.keys(value).some((key) => key.includes("/"));
}

/** An array or a plain object as JSON would have it; undefined for all else, and for what is too large or too deep. */
function plainData(value) {
  if (typeof value !== "object" || value === null || util.types.isProxy(value)) return undefined;
  if (!Array.isArray(value) && Object.getPrototypeOf(value) !== Object.prototype) return undefined;
  let json;
  try {
    json = JSON.stringify(value);
  } catch {
    return undefined; // it contains itself, or what JSON cannot hold
  }
  if (json === undefined || json.length > MAX_TEXT || depth(json) > MAX_JSON_DEPTH) return undefined;
  return JSON.parse(json);
}

function depth(json) {
  let deepest = 0;
  let now = 0;
  for (const [token] of json.matchAll(/"(?:[^"\\]|\\.)*"|[[{\]}]/g)) {
    if (token === "[" || token === "{") deepest = Math.max(deepest, ++now);
    else if (token === "]" || token === "}") now--;
  }
  return deepest;
}

module.exports = { Results, TRACEBACK, define, described };
