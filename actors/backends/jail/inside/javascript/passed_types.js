// Types that a module passes on by name, as in `export { Shape, area } from "./shapes"`. Only the other file says which
// of the names are types; they are left out, for there are none when the program runs.
"use strict";
const fs = require("node:fs");
const { parse } = require("./syntax.js");

const PASSES_ON = /\bexport\s*\{/;

/** A script without the types that it passes on; `found` returns the file that a path in it, or in a file, means. */
function withoutPassedTypes(script, found) {
  const statements = (PASSES_ON.test(script) && parse(script)?.body) || [];
  const isTypeIn = (source) => (name) => isType(found(source.value), name, found, new Set());
  const types = new Set();
  const edits = [];
  for (const node of statements.filter(({ type, source }) => type === "ImportDeclaration" && source.value[0] === ".")) {
    const named = node.specifiers.filter(({ type }) => type === "ImportSpecifier");
    const dropped = named.filter(({ imported }) => isTypeIn(node.source)(nameOf(imported)));
    for (const { local } of dropped) types.add(local.name);
    drop(node, dropped, script, edits);
  }
  for (const node of statements.filter(({ type, declaration }) => type === "ExportNamedDeclaration" && !declaration)) {
    const isOne = node.source?.value[0] === "." ? isTypeIn(node.source) : (name) => !node.source && types.has(name);
    const dropped = node.specifiers.filter(({ local }) => isOne(nameOf(local)));
    drop(node, dropped, script, edits);
  }
  return edits.reduceRight((text, [start, end, by]) => text.slice(0, start) + by + text.slice(end), script);
}

const nameOf = (node) => node.name ?? node.value;

/** Leave specifiers out of a statement, with the comma after or before each. */
function drop(node, dropped, script, edits) {
  for (const { start, end } of dropped) {
    const rest = script.slice(end, node.end);
    const comma = /^\s*,/.exec(rest)?.[0].length ?? 0;
    edits.push([start, end + comma, ""]);
  }
}

/** Whether a file exports a type by this name. */
function isType(file, name, found, seen) {
  if (file === undefined || seen.has(file) || !/\.[cm]?ts$/.test(file)) return false;
  seen.add(file);
  const text = fs.readFileSync(file, "utf8");
  const word = `${name.replace(/\$/g, "\\$")}(?![\\w$])`;
  if (new RegExp(`\\b(?:const|let|var|function\\*?|class|enum|namespace)\\s+${word}`).test(text)) return false;
  if (new RegExp(`\\b(?:interface|type)\\s+${word}`).test(text)) return true;
  const passing = text.matchAll(/\bexport\s+(?:type\s+)?(\*|\{[^}]*\})\s*from\s*(["'])(\.[^"']*)\2/g);
  for (const [, names, , source] of passing) {
    if (names !== "*" && !new RegExp(`\\b${word}`).test(names)) continue;
    if (isType(found(source, file), name, found, seen)) return true;
  }
  return false;
}

module.exports = { withoutPassedTypes };
