// A console's evaluation of programs, by V8 itself through its inspector: in its REPL mode, in which a later program
// may declare anew what an earlier one has, and `await` may stand anywhere.
"use strict";
const { Session } = require("node:inspector");
const { SourceMap } = require("node:module");
const util = require("node:util");
const vm = require("node:vm");
const { define } = require("./results.js");
const { forConsole } = require("./syntax.js");

const EVALUATE = "$evaluate";
const OWN_FRAME = /\n +at [^\n]*(?:node:(?:internal|inspector|vm|events)|\/\.node-host-)[^\n{]*?( \{)?(?=\n|$)/g;
const PLACE = /\b(REPL\d+):(\d+)(?::(\d+))?/g;

class Evaluator {
  #importModule;
  #isTypeScript;
  #session = new Session();
  /** A function that is called with each value which is to leave the inspector. */
  #receiver;
  #received;
  /** What ran, by the names under which errors show it. */
  #sources = new Map();
  #declared = new Set();
  #remembered = new Map();
  // Only a script can be interrupted by a signal.
  #interruptible = new vm.Script(`${EVALUATE}()`, { filename: __filename });

  constructor(importModule, isTypeScript) {
    this.#importModule = importModule;
    this.#isTypeScript = isTypeScript;
    this.#session.connect();
    define(EVALUATE, (value) => (this.#received = value));
    this.#session.post(
      "Runtime.evaluate",
      { expression: EVALUATE },
      (_, { result }) => (this.#receiver = result.objectId),
    );
  }

  /** Run a program, to its last `value` or to the `failure` that ended it: an `error` and, if known, the place `at`. */
  async run(code) {
    const name = `REPL${this.#sources.size + 1}`;
    this.#sources.set(name, { lines: code.split("\n") });
    let program;
    try {
      program = forConsole(this.#script(code, name));
      for (const wanted of program.imports) await this.#bind(wanted);
    } catch (error) {
      return { failure: { error } };
    }
    const outcome = await this.#evaluate(asExpression(program.code), name);
    for (const declared of program.declared) this.#declared.add(declared);
    if (outcome.failure !== undefined) {
      this.#remember("_error", outcome.failure.error);
      return outcome;
    }
    this.#remember("_", outcome.value);
    return util.types.isPromise(outcome.value) ? settled(outcome.value) : outcome;
  }

  /** Define a global as what came last, unless a program has one of this name. */
  #remember(name, value) {
    const held = Object.getOwnPropertyDescriptor(globalThis, name);
    if (held !== undefined && !Object.is(held.value, this.#remembered.get(name))) return;
    define(name, value);
    this.#remembered.set(name, value);
  }

  /** What Node.js would report of an error that nobody caught. */
  explain({ error, at }) {
    const text = util.inspect(error).replace(OWN_FRAME, "$1");
    const shown = text.replace(PLACE, (...match) => this.#original(match).join(":"));
    const place = (util.types.isNativeError(error) ? text.match(new RegExp(PLACE.source)) : null) ?? at;
    if (place === undefined) return shown;
    const [name, line, column] = this.#original(place);
    const source = this.#sources.get(name)?.lines[line - 1] ?? "";
    return `${name}:${line}\n${source}\n${" ".repeat(column - 1)}^\n\n${shown}`;
  }

  /** The JavaScript of a program; of TypeScript, only what has no other equivalent is written anew. */
  #script(code, name) {
    if (!this.#isTypeScript) return code;
    const { compiled, stripped } = require("./typescript.js");
    const script = stripped(code, name);
    if (script !== undefined) return script;
    const { script: written, map } = compiled(code, name, true);
    this.#sources.get(name).map = new SourceMap(map);
    return written;
  }

  #original([, name, line, column]) {
    const entry = this.#sources.get(name)?.map?.findEntry(line - 1, (column ?? 1) - 1);
    if (entry?.originalLine === undefined) return [name, Number(line), Number(column ?? 1)];
    return [name, entry.originalLine + 1, entry.originalColumn + 1];
  }

  /** Import a module, and define what a program calls its parts, which change as they do in the module. */
  async #bind({ from, attributes, names }) {
    const module = await this.#importModule(from, { with: attributes });
    for (const { local, imported } of names) {
      if (imported !== "*" && !(imported in module)) {
        if (this.#isTypeScript) continue; // a type
        throw new SyntaxError(`The requested module '${from}' does not provide an export named '${imported}'`);
      }
      const get = () => (imported === "*" ? module : module[imported]);
      if (this.#declared.has(local)) await this.#declare(local, get());
      else defineImported(local, get);
    }
  }

  /** Give a name that a program has declared another value. */
  async #declare(name, value) {
    define(EVALUATE, value);
    const { exceptionDetails } = await this.#evaluateNow(`const ${name} = ${EVALUATE}`);
    if (exceptionDetails !== undefined) await this.#evaluateNow(`${name} = ${EVALUATE}`); // it is no constant
  }

  async #evaluate(code, name) {
    let answered;
    define(EVALUATE, () => (answered = this.#evaluateNow(`${code}\n//# sourceURL=${name}`)));
    try {
      this.#interruptible.runInThisContext({ breakOnSigint: true });
    } catch (error) {
      return { failure: { error } };
    }
    const { result, exceptionDetails: details } = await answered;
    if (details === undefined) return { value: this.#receive(result) };
    const error = this.#receive(details.exception);
    // Of what was thrown and not written wrongly, the inspector knows no place in the program.
    const at = error instanceof SyntaxError ? [, name, details.lineNumber + 1, details.columnNumber + 1] : undefined;
    return { failure: { error, at } };
  }

  #evaluateNow(expression) {
    let resolve;
    const answered = new Promise((settle) => (resolve = settle));
    const options = { expression, replMode: true, awaitPromise: true, objectGroup: "program" };
    this.#session.post("Runtime.evaluate", options, (error, answer) => {
      if (error === null) resolve(answer); // else it was interrupted
    });
    return answered;
  }

  /** The value that the inspector describes. */
  #receive({ objectId, unserializableValue, value }) {
    const argument = objectId ? { objectId } : unserializableValue ? { unserializableValue } : { value };
    const call = {
      objectId: this.#receiver,
      functionDeclaration: "function (value) { this(value); }",
      arguments: [argument],
    };
    this.#session.post("Runtime.callFunctionOn", call);
    this.#session.post("Runtime.releaseObjectGroup", { objectGroup: "program" });
    return this.#received;
  }
}

/** A program that is an object's literal, and not a block, as the expression that is meant. */
function asExpression(code) {
  if (!/^\s*\{/.test(code) || /;\s*$/.test(code)) return code;
  try {
    new vm.Script(`(${code}\n)`);
    return `(${code}\n)`;
  } catch {
    return code;
  }
}

async function settled(promise) {
  try {
    return { value: await promise };
  } catch (error) {
    return { failure: { error } };
  }
}

function defineImported(name, get) {
  const set = () => {
    throw new TypeError("Assignment to constant variable.");
  };
  const defined = Reflect.defineProperty(globalThis, name, { configurable: true, enumerable: false, get, set });
  if (!defined) globalThis[name] = get(); // an earlier program's variable
}

module.exports = { Evaluator };
