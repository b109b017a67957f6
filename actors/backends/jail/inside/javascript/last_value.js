// Programs changed so that they pass their last value to a function, while their errors stay where they are.
"use strict";
const { lastValue } = require("./syntax.js");

/** The function that is given the value. */
const RECEIVER = "$lastValue";

/**
 * A program that passes on its last value. Where that moves what it had on a line, `moved` says which `line`, from
 * which `column` on, and `by` how much.
 */
function passingOn(code) {
  const last = lastValue(code);
  if (last === undefined) return { code };
  if (last.isDirective) return { code: asDirective(code, last) };
  // Where the call can begin on an earlier line, nothing moves.
  const start = code.slice(last.previousEnd, last.start).includes("\n") ? last.previousEnd : last.start;
  const call = `;${RECEIVER}((`;
  const passing = `${code.slice(0, start)}${call}${code.slice(start, last.end)}))${code.slice(last.end)}`;
  if (start !== last.start) return { code: passing };
  const before = code.slice(0, start).split("\n");
  return { code: passing, moved: { line: before.length, column: before.at(-1).length, by: call.length } };
}

/** The same for a program that has a source map. */
function passingOnMapped({ script, map }) {
  const last = lastValue(script);
  if (last === undefined) return { script, map };
  if (last.isDirective) return { script: asDirective(script, last), map };
  const mappings = map.mappings.split(";");
  mappings.splice(script.slice(0, last.start).split("\n").length - 1, 0, "");
  const { start, end } = last;
  const passing = `${script.slice(0, start)};${RECEIVER}((\n${script.slice(start, end)}))${script.slice(end)}`;
  return { script: passing, map: { ...map, mappings: mappings.join(";") } };
}

/** A directive stays one only where nothing is around it. */
function asDirective(code, { start, end }) {
  return `${code}\n;${RECEIVER}(${code.slice(start, end)})`;
}

module.exports = { RECEIVER, passingOn, passingOnMapped };
