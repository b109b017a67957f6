// Preloaded where Node.js runs one program, as its main module: tells the host what the program displays, its last
// value and the error that ends it. All else is as in `node program.js`.
//
// A variable names two descriptors, for messages and for what Node.js itself reports of that error. The program's own
// workers and children have no such variable; for them, only TypeScript is seen to.
"use strict";
const fs = require("node:fs");
const { Module, registerHooks } = require("node:module");
const path = require("node:path");
const { pathToFileURL } = require("node:url");
const { RECEIVER, passingOn, passingOnMapped } = require("./last_value.js");

/** How the program's text has been moved, for the host to undo it in reports. */
let moved;
const isTypeScript = process.execArgv.includes("--enable-source-maps");
const channels = process.env.NODE_RUN_CHANNELS;
delete process.env.NODE_RUN_CHANNELS;
if (!isTypeScript) process.execArgv.length = 0; // so that children have no flags of ours

if (channels !== undefined) {
  const main = path.resolve(process.argv[1]);
  report(...channels.split(",").map(Number));
  if (isTypeScript) require("./typescript.js").install(pathToFileURL(main).href, passingOnMapped);
  else loadThrough(main, passingOn);
} else if (isTypeScript) {
  require("./typescript.js").install();
} else if (registerHooks === undefined) {
  require("./results.js").define(RECEIVER, () => undefined); // in a worker that runs the main program's file again
}

/** Tell the host what happens, on two descriptors. */
function report(messages, uncaught) {
  const { Results, define, described } = require("./results.js");
  const results = new Results(messages);
  results.offerDisplay();
  define(RECEIVER, (value) => results.showLast(value));
  process.on("uncaughtExceptionMonitor", (error) => {
    if (process.listenerCount("uncaughtException") > 0 || process.hasUncaughtExceptionCaptureCallback()) return;
    results.send({ kind: "error", moved, ...described(error) });
    // Node.js is about to write a report of it, after the program's own listeners.
    process.on("exit", () => {
      fs.closeSync(2);
      fs.openSync(`/proc/self/fd/${uncaught}`, "w"); // takes the lowest number that is free: 2
    });
  });
}

/** Have the text of the main program changed as it is loaded. */
function loadThrough(file, change) {
  const changed = (text) => {
    const passing = change(text);
    ({ moved } = passing);
    return passing.code;
  };
  if (registerHooks === undefined) {
    compileThrough(file, changed);
    return;
  }
  const main = pathToFileURL(file).href;
  registerHooks({
    load(url, context, next) {
      const loaded = next(url, context);
      if (url !== main || loaded.source === null) return loaded;
      return { ...loaded, source: changed(Buffer.from(loaded.source).toString()) };
    },
  });
}

/** The same before Node.js 22.15, where of an ES module only the file can be changed. */
function compileThrough(file, changed) {
  const text = fs.readFileSync(file, "utf8");
  if (require("./syntax.js").moduleFacts(text).isModule) {
    fs.writeFileSync(file, changed(text));
    return;
  }
  const compile = Module.prototype._compile;
  Module.prototype._compile = function (original, ...rest) {
    Module.prototype._compile = compile; // the main program comes first
    return this._compile(changed(original), ...rest);
  };
}
