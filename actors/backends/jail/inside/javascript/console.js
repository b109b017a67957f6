// The host of a session's JavaScript or TypeScript: runs programs one after another in one context, as consoles do.
//
// Requests come as JSON lines on one descriptor, answers go out as JSON lines on another; its arguments name both, and
// the language. A program has ended when its code has, and all that it left to do: timers, promises, requests. Servers
// may stay.
"use strict";
const fs = require("node:fs");
const net = require("node:net");
const { Evaluator } = require("./evaluator.js");
const { prepareGlobals } = require("./globals.js");
const { Results, described } = require("./results.js");

const [, requests, answers, language] = process.argv.splice(1);
const SERVERS = new Set(["TCPServerWrap", "PipeServerWrap", "PipeWrap", "TTYWrap"]);
const LOOK_MS = 20;
const { setInterval, clearInterval } = globalThis; // programs may replace theirs
const exit = process.reallyExit.bind(process);

const results = new Results(Number(answers));
const importModule = prepareGlobals();
const evaluator = new Evaluator(importModule, language === "typescript");
if (language === "typescript") require("./typescript.js").install();
process.execArgv.length = 0;
results.offerDisplay();

/** The program that runs, or null. */
let running = null;

async function begin(request) {
  const program = (running = {
    failed: false,
    left: busy().length, // by earlier programs
    before: { ...process.env },
    names: Object.keys(request.env),
  });
  Object.assign(process.env, request.env);
  replaceStdin(request.stdin);
  channel.unref();
  const { value, failure } = await evaluator.run(request.code);
  if (running !== program) return; // it was interrupted
  if (failure !== undefined) fail(failure);
  else if (value !== undefined) results.show(value, true);
  watch();
}

function replaceStdin(source) {
  fs.closeSync(0);
  fs.openSync(source, "r"); // takes the lowest number that is free: 0
  let input;
  Object.defineProperty(process, "stdin", {
    configurable: true,
    get: () => (input ??= new fs.ReadStream(null, { fd: 0, autoClose: false })),
  });
}

function fail(failure) {
  if (running.failed) return;
  running.failed = true;
  if (failure.error?.code === "ERR_SCRIPT_EXECUTION_INTERRUPTED") return interrupted();
  results.send({ kind: "error", traceback: evaluator.explain(failure), ...described(failure.error) });
}

function interrupted() {
  results.send({ kind: "error", name: "Interrupted", value: "", traceback: "Interrupted" });
}

const busy = () => process.getActiveResourcesInfo().filter((kind) => !SERVERS.has(kind));

/** Wait until nothing is left to do; where servers are all that is left, they may stay. */
function watch() {
  running.watch = setInterval(() => {
    if (running !== null && busy().length <= running.left) end();
  }, LOOK_MS);
  running.watch.unref();
}

function end() {
  if (running === null) return;
  clearInterval(running.watch);
  for (const name of running.names) {
    if (name in running.before) process.env[name] = running.before[name];
    else delete process.env[name];
  }
  const status = process.exitCode;
  process.exitCode = undefined;
  if (status && !running.failed)
    results.send({ kind: "error", name: "ExitStatus", value: `${status}`, traceback: `ExitStatus: ${status}` });
  running = null;
  channel.ref();
  results.send({ kind: "ended" });
}

process.on("beforeExit", end);
process.on("uncaughtException", (error) => {
  if (running === null) console.error(evaluator.explain({ error }));
  else fail({ error });
  end();
});
process.on("SIGINT", () => {
  if (running === null) return;
  if (!running.failed) interrupted();
  running.failed = true;
  end();
});

let buffered = "";
const channel = new net.Socket({ fd: Number(requests), readable: true, writable: false });
channel.setEncoding("utf8");
channel.on("data", (data) => {
  buffered += data;
  for (let at; (at = buffered.indexOf("\n")) >= 0;) {
    const line = buffered.slice(0, at);
    buffered = buffered.slice(at + 1);
    begin(JSON.parse(line));
  }
});
channel.on("close", () => exit(0));
results.send({ kind: "ready" });
